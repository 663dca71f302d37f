"""Hostile bodies sent to real processes: each gets a 4xx with a detail, and no other request is affected."""

from __future__ import annotations

import io
import json
import struct
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest

from tests.brokers import eventually
from tests.entries import entry_fields
from tests.system.stack import Stack
from tests.worker.images.hostile_images import chunk, exif, jpeg_with, png_with, segment
from tests.worker.images.photos import encoded, pixels

JSON, NPY, MSGPACK = "application/json", "application/x-npy", "application/msgpack"
FORM = "multipart/form-data; boundary=b"
FLOWER = b'{"data": [5.1, 3.5, 1.4, 0.2]}'


def packed(body: Any) -> bytes:
    return msgpack.packb(body) or b""


def npy(array: np.ndarray, **fields: str) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    whole = file.getvalue()
    for was, now in fields.items():
        whole = whole.replace(was.encode(), now.ljust(len(was)).encode())
    return whole


def header_only(width: int, height: int) -> bytes:
    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + ihdr + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


# (content type, body, status, what the detail says); a query or a header instead of a content type begins with "?"
TENSORS: list[tuple[str, bytes, int, str]] = [
    (JSON, b"", 400, "empty"),
    (JSON, b"{", 400, "truncated"),
    (JSON, b'{"data": [1, 2, 3, 4]} x', 400, "malformed"),
    (JSON, b'{"data": [1, 2, 3, 4', 400, "truncated"),
    (JSON, b"[1, 2, 3, 4]", 422, "Expected `object`, got `array`"),
    (JSON, b"{}", 422, "missing required field `data`"),
    (JSON, b'{"data": [1, 2, 3, 4], "topk": 1}', 422, "unknown field `topk`; known fields are data, shape, dtype"),
    (JSON, b'{"data": [1, 2, 3, 4], "a\\nb": 1}', 422, "known fields are data, shape, dtype"),
    (JSON, b'{"data": [[1, 2, 3, 4], [1, 2, 3]]}', 422, "ragged"),
    (JSON, b'{"data": [1, 2, 3]}', 422, "4 numbers per row"),
    (JSON, b'{"data": [NaN, 1, 2, 3]}', 400, "malformed"),
    (JSON, b'{"data": [1e999, 1, 2, 3]}', 422, "Number out of range"),
    (JSON, b'{"data": ["1", "2", "3", "4"]}', 415, "takes tensor"),
    (JSON, b'{"data": null}', 422, ""),
    (JSON, b'{"data": []}', 422, "empty"),
    (JSON, rb'{"data": "\ud800"}', 400, r"\ud800 is a lone surrogate"),
    (JSON, b'{"data": "\xff"}', 400, "utf-8"),
    (JSON, b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "nested too deeply"),
    (JSON, b'{"data": ' + b"[" * 40 + b"1" + b"]" * 40 + b"}", 422, "at most 32 dimensions"),
    (
        JSON,
        b'{"data": [' + b"1, " * 3_000_000 + b"1]}",
        413,
        "at most 1,500,000 elements and 131,072 lists; send larger",
    ),
    (JSON, b'{"data": [' + b"[1], " * 200_000 + b"[1]]}", 413, "131,072 lists"),
    (JSON, b'{"data": [1, 2, 3, 4], "shape": [9007199254740992, 9007199254740992]}', 422, "needs 8112963841460668"),
    (JSON, b'{"data": [1, 2, 3, 4], "shape": [-4]}', 422, "Expected `int` >= 0"),
    (JSON, b'{"data": [1, 2, 3, 4], "dtype": "object"}', 422, "unknown dtype 'object'"),
    (JSON, b'{"data": [1, 2, 3, 4], "dtype": "int8"}', 422, "takes floats of any width"),
    (NPY, b"", 400, "empty"),
    (NPY, b"\x93NUMPY", 400, "version: expected 1.0, 2.0 or 3.0"),
    (NPY, npy(np.zeros(4, np.float32))[:-1], 400, "needs 16 bytes, got 15"),
    (NPY, npy(np.zeros(4, np.float32)) + b"x", 400, "needs 16 bytes, got 17"),
    (NPY, npy(np.zeros((1, 4), np.float32), **{"(1, 4), ": "(9999999, 4),"}), 400, ""),
    (NPY, npy(np.zeros(4, ">f4")), 422, "big-endian"),
    (NPY, npy(np.zeros((3, 5), np.float32)), 422, "takes shape [4] or [rows, 4], got [3, 5]"),
    (NPY, npy(np.zeros(4, np.complex64)), 422, "unknown .npy dtype"),
    (NPY, npy(np.zeros(4, np.float32), **{"'<f4'": "'|O'"}), 422, "pickles"),
    (MSGPACK, b"\x81\xa4data\xdd\xff\xff\xff\xff", 400, "truncated"),
    (MSGPACK, b"\x81\xa4data" + b"\x91" * 100_000 + b"\xc0", 400, "nested too deeply"),
    (MSGPACK, packed({"data": msgpack.ExtType(5, b"x")}), 422, ""),
    (MSGPACK, packed({"data": b"123", "dtype": "float32", "shape": [4]}), 400, "needs 16 bytes, got 3"),
    (MSGPACK, packed({"data": [1] * 2_000_000}), 413, "send data as bytes"),
    ("image/jpeg", encoded(pixels("chelsea"), "JPEG"), 415, "takes tensor"),
    ("image/gif", b"GIF89a", 415, "got 'image/gif'"),
    ("text/plain", b"\xff\xfe", 415, "takes tensor"),
    ("%%%/\xff", b"x", 415, "takes tensor"),
    ("?top_k=1.9", FLOWER, 400, "top_k: expected a whole number from 0 to 1000, got '1.9'"),
    ("?top_k=", FLOWER, 400, "top_k: expected a whole number from 0 to 1000, got ''"),
    ("?topk=5", FLOWER, 400, "unknown query parameter 'topk'; did you mean top_k?"),
    ("?top_k=1&top_k=2", FLOWER, 400, "given twice"),
    ("?model=", FLOWER, 404, "a model name must be 1 to 128 characters"),
    ("?model=%7Biris%7D:requests%0d%0aX:1", FLOWER, 404, "a model name must be 1 to 128 characters"),
]

IMAGES: list[tuple[str, bytes, int, str]] = [
    ("image/jpeg", b"\xff\xd8\xff", 422, "broken header"),
    ("image/jpeg", encoded(pixels("chelsea"), "JPEG")[:20_000], 422, "broken JPEG of 451x300 in 20000 bytes"),
    ("image/png", encoded(pixels("chelsea"))[:20_000], 422, "cut short"),
    ("image/webp", encoded(pixels("chelsea"), "WEBP")[:9_000], 422, "broken"),
    ("image/png", header_only(100_000, 100_000), 422, "65500 pixels a side, got 100000x100000"),
    ("image/png", header_only(60_000, 60_000), 422, "at most 50000000 pixels, got 60000x60000"),
    ("image/png", header_only(7_000, 7_000), 422, "broken PNG of 7000x7000"),
    ("image/png", header_only(0, 10), 422, "0x10"),
    ("image/png", png_with((b"aaAa", b""), 100_000), 422, "more chunks"),
    ("image/jpeg", jpeg_with(segment(0xE1, b"Exif\0\0x") * 100_000), 422, "more than 1000 segments"),
    ("image/jpeg", jpeg_with(b"", scans=10_000), 422, "scans, more than 100"),
    ("image/jpeg", jpeg_with(b"\xff" * 3_000_000), 422, "no scan follows its header"),
    ("image/gif", b"GIF89a", 415, "got 'image/gif'"),
    ("image/jpeg", b"GIF89a" * 10, 422, "not JPEG, PNG or WebP"),
    (FORM, b"--b\r\n", 400, "closing boundary"),
    (FORM, b"--b\r\n" + b"A: B\r\n" * 100_000, 400, "Maximum header count"),
    ("multipart/form-data", b"x", 400, "boundary"),
    (FORM, b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n5\r\n--b--\r\n', 422, "'x' is a plain field"),
    (MSGPACK, packed({"image": [b"\xff\xd8\xff"] * 4097}), 413, "at most 4096 rows"),
    (MSGPACK, packed({"image": [header_only(8_000, 4_000)] * 2}), 413, "2 images with 64000000"),
    (NPY, npy(np.zeros((1, 3, 224, 223), np.float32)), 422, "takes shape [3, 224, 224]"),
]


def wrongly_answered(system: Stack, cases: list[tuple[str, bytes, int, str]]) -> list[str]:
    """Send each body and return those that were not rejected as expected."""
    return [wrong for case in cases if (wrong := _wrong(system, *case))]


def _wrong(system: Stack, what: str, body: bytes, status: int, text: str) -> str:
    query, content_type = (what, JSON) if what.startswith("?") else ("", what)
    headers = [(b"content-type", content_type.encode("latin-1"))]
    response = system.client.post(f"{system.url}/predict{query}", content=body, headers=headers)
    problem = response.json()
    correct = (
        response.headers["content-type"] == "application/problem+json"
        and (response.status_code, problem["status"]) == (status, status)
        and text in problem["detail"]
        and 15 < len(problem["detail"]) <= 1000
        and response.elapsed.total_seconds() < 10
    )
    return "" if correct else f"{what!r} {body[:60]!r} → {status} {text!r}: {response.elapsed} {response.text[:300]}"


def unharmed(system: Stack) -> None:
    """No process ended or wrote a traceback, no log line was forged, and nothing is left on the broker."""
    for process in system.processes:
        log = process.log.read_text()
        assert process.popen.poll() is None, log
        assert "Traceback" not in log and " ERROR " not in log, log
        assert not set(log) & {"\x1b", "\r", "\x00"}, log
    redis = system.broker.sync
    eventually(lambda: not redis.exists(*[key for key in redis.keys("*") if key.endswith(b":inflight")] or [b"none"]))
    assert {key for key in redis.keys("*") if not key.startswith(b"smartbatch:")} == set()


def test_hostile_tensors_are_rejected_without_affecting_others(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="examples.tabular:Iris", MODEL_NAME="iris", TORCH_THREADS=1, LOG_LEVEL="debug")
    system.up()
    correct = system.predict(FLOWER, headers={"content-type": JSON}).json()["values"]
    assert wrongly_answered(system, TENSORS) == []
    assert system.predict(FLOWER, headers={"content-type": JSON}).json()["values"] == correct
    assert correct[0]["species"] == "setosa"
    unharmed(system)


def test_hostile_images_are_rejected_without_affecting_others(shared: Callable[..., Stack]) -> None:
    system = shared(MODEL_PATH="efficientnet_lite0", MODEL_NAME="lite", TORCH_THREADS=1)
    cat = encoded(pixels("chelsea"), "JPEG", quality=95)
    correct = system.predict(cat, headers={"content-type": "image/jpeg"}).json()["predictions"]
    assert wrongly_answered(system, IMAGES) == []
    for harmless in (png_with((b"eXIf", exif(2000, 500_000))), png_with((b"zTXt", b"x\0\0" + bytes(9)), 900)):
        assert system.predict(harmless, headers={"content-type": "image/png"}).status_code == 200
    again = system.predict(cat, headers={"content-type": "image/jpeg"}).json()["predictions"]
    assert [score["label"] for score in again[0]] == [score["label"] for score in correct[0]]
    assert correct[0][0]["label"] == "Egyptian cat"
    unharmed(system)


def test_nan_and_infinity_affect_only_their_own_row(shared: Callable[..., Stack]) -> None:
    """NaN and infinities are accepted, as in other servers; the model decides what they mean. In JSON they are text."""
    system = shared(MODEL_PATH="efficientnet_lite0", MODEL_NAME="lite", TORCH_THREADS=1)
    rows = np.random.default_rng(0).normal(size=(3, 3, 224, 224)).astype(np.float32)
    alone = system.predict(npy(rows), headers={"content-type": NPY, "accept": NPY})
    rows[1, 0, 100, 100] = np.nan
    spoilt = system.predict(npy(rows), headers={"content-type": NPY, "accept": NPY})
    whole, with_nan = (np.load(io.BytesIO(response.content)) for response in (alone, spoilt))
    np.testing.assert_allclose(with_nan[[0, 2]], whole[[0, 2]], atol=1e-4)
    assert np.isnan(with_nan[1]).all()
    response = system.predict(npy(rows), headers={"content-type": NPY})
    predictions = json.loads(response.content, parse_constant=pytest.fail)["predictions"]
    assert [score["probability"] for score in predictions[1]] == ["NaN"] * 5
    assert sum(score["probability"] for score in predictions[0]) <= 1
    unharmed(system)


def test_forged_entries_stop_no_worker(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=1,row_ms=0")
    _, worker = system.up().processes
    redis, stream = system.broker.sync, "smartbatch:{simulated}:requests"
    good = {"gateway": "g", "t": str(int(time.time() * 1000)), "timeout_ms": "60000"}
    deep = b"\x84\xa1v\x01\xa4kind\xa4text\xa7content\x91\xa1a\xa7options\x81\xa1a" + b"\x91" * 100_000 + b"\xc0"
    malformed: list[dict] = [{"hello": "world"}]
    malformed += (entry_fields(**good | odd) for odd in ({"rows": "many"}, {"id": b"\xff"}, {"timeout_ms": "9" * 12}))
    unreadable = [entry_fields(**good, payload=payload) for payload in (b"\xc1", deep, b"\xdd\xff\xff\xff\xff")]
    lost = [entry_fields(**good, payload=b"")]
    for fields in (*malformed, *unreadable, *lost):
        redis.xadd(stream, fields)
    redis.rpush(
        redis.keys("*inbox*")[0] if redis.keys("*inbox*") else "smartbatch:{simulated}:inbox:g", b"\xff", b"x|y"
    )
    redis.hset("smartbatch:models", mapping={b"\xff": b"{}", b"{x}": b"{}", b"ok": b"no json"})
    assert all(system.predict(b"x").status_code == 200 for _ in range(20))
    eventually(lambda: redis.xlen(stream) == 0)
    letters = [fields[b"reason"].decode() for _, fields in redis.xrange("smartbatch:{simulated}:dead")]
    assert sorted(letters) == [
        "malformed: a number is out of range",
        "malformed: its fields are not id, header and payload",
        "malformed: its id or header has an invalid number or invalid UTF-8",
        "malformed: its id or header has an invalid number or invalid UTF-8",
    ]
    assert system.client.get(f"{system.url}/readyz").status_code == 200
    assert worker.popen.poll() is None
    assert "Traceback" not in worker.log.read_text()


def test_others_are_served_while_a_large_body_is_parsed(stack: Callable[..., Stack]) -> None:
    """As long a list as JSON may hold, of 16 MB. It is admitted and waits for a worker until its timeout."""
    system = stack(MODEL_PATH="simulated:base_ms=1,row_ms=0", MODEL_NAME="any")
    system.gateway()
    body = b'{"data": [' + b"1.23456, " * 1_499_999 + b"1]}"
    responses: list[httpx.Response] = []
    busy = threading.Thread(
        target=lambda: responses.append(
            system.client.post(
                f"{system.url}/predict", content=body, headers={"content-type": JSON, "x-request-timeout": "5"}
            )
        )
    )
    with httpx.Client() as client:
        client.get(f"{system.url}/healthz")
        busy.start()
        waits = []
        while busy.is_alive():
            waits.append(client.get(f"{system.url}/healthz").elapsed.total_seconds())
    busy.join()
    assert [response.status_code for response in responses] == [504]
    assert len(waits) > 20
    assert sorted(waits)[-2] < 0.25, sorted(waits)[-5:]  # 0.1 s on an idle machine
