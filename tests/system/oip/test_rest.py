"""The protocol as bytes: requests that tritonclient doesn't send, and malformed ones."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import struct
from collections.abc import Callable, Mapping
from typing import BinaryIO

import httpx
import numpy as np
import pytest

from smartbatch.gateway.auth.keys import digest_of
from tests.brokers import eventually
from tests.system.stack import Stack

LENGTH = "Inference-Header-Content-Length"
ONES = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}


def post(
    system: Stack, model: str, body: object, behind: bytes = b"", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """Send JSON with bytes behind it; the header says where the JSON ends."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    length = {LENGTH: str(len(text))} if behind else {}
    url = f"{system.url}/v2/models/{model}/infer"
    return system.client.post(url, content=text + behind, headers={**length, **(headers or {})})


def rejected(response: httpx.Response, status: int, text: str) -> None:
    """Every error is JSON as clients of the protocol expect it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert text in response.json()["error"]


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [[[1], [2]], [[3], [4]]]], ids=["flat", "2", "3"])
def test_data_may_be_flat_or_nested(system: Stack, data: list) -> None:
    response = post(system, "arithmetic", {"inputs": [{**ONES, "shape": [2, 2], "data": data}]})
    assert response.json()["outputs"][0] == {
        "name": "double",
        "datatype": "FP32",
        "shape": [2, 2],
        "data": [2.0, 4.0, 6.0, 8.0],
    }
    assert response.json()["model_version"] == "1" and "id" not in response.json()


def test_half_precision_both_ways(system: Stack) -> None:
    half = np.array([1.5, -2], np.float16)
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP16", "parameters": {"binary_data_size": 4}}
    response = post(system, "arithmetic", {"inputs": [tensor], "outputs": [{"name": "half"}]}, half.tobytes())
    assert response.json()["outputs"][0] == {"name": "half", "datatype": "FP16", "shape": [1, 2], "data": [0.75, -1.0]}
    brain = b"".join(struct.pack("<f", number)[2:] for number in (1.5, -2))
    tensor["datatype"] = "BF16"
    response = post(system, "arithmetic", {"inputs": [tensor]}, brain)
    assert response.json()["outputs"][0]["data"] == [3.0, -4.0]


def test_nan_and_infinity_are_text_in_json(system: Stack) -> None:
    tensor = {"name": "input", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}
    response = post(system, "echo", {"inputs": [tensor]}, struct.pack("<3f", np.nan, np.inf, -np.inf))
    assert response.json()["outputs"][0]["data"] == ["NaN", "Infinity", "-Infinity"]


def test_body_without_json_header_is_the_raw_input(system: Stack, cat: bytes) -> None:
    response = post(system, "arithmetic", struct.pack("<4f", 1, 2, 3, 4), headers={LENGTH: "0"})
    head = json.loads(response.content[: int(response.headers[LENGTH])])
    assert (head["outputs"][0]["name"], head["outputs"][0]["shape"]) == ("double", [2, 2])
    assert response.content[int(response.headers[LENGTH]) :][:16] == struct.pack("<4f", 2, 4, 6, 8)
    photo = post(system, "efficientnet_lite0", cat, headers={LENGTH: "0"})
    logits = np.frombuffer(photo.content[int(photo.headers[LENGTH]) :], np.float32)
    assert logits.argmax() == 285
    rejected(
        post(system, "arithmetic", b"12345", headers={LENGTH: "0"}), 422, "takes 8 bytes per row (FP32 [2]), got 5"
    )
    rejected(post(system, "echo", b"1234", headers={LENGTH: "0"}), 422, "which the byte count doesn't determine")
    rejected(post(system, "arithmetic", b"", headers={LENGTH: "0"}), 400, "the body is empty")


def test_base64_in_json(system: Stack) -> None:
    tensor = {"name": "raw", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    response = post(system, "echo", {"inputs": [{**tensor, "data": ["AP8A"]}]})
    assert response.json()["outputs"][0]["data"] == ['{"length":3}']
    rejected(post(system, "echo", {"inputs": [{**tensor, "data": ["%"]}]}), 422, "element 0 is not base64")


def test_responses_have_timings(system: Stack) -> None:
    response = post(system, "arithmetic", {"id": "a", "inputs": [ONES]}, headers={"X-Request-Id": "mine"})
    assert response.headers["x-request-id"] == "mine"
    assert "forward;dur=" in response.headers["server-timing"]
    assert response.headers["x-batch-rows"] == "1"


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 400, "Input data was truncated"),
        (b"[]", 422, "Expected `object`, got `array`"),
        (b"{}", 422, "missing required field `inputs`"),
        (b'{"inputs": []}', 422, "one input, got 0"),
        (b'{"inputs": [{"name": "x"}]}', 422, "missing required field `shape` - at `inputs[0]`"),
        ({"inputs": [{**ONES, "shape": [-1, 2]}]}, 422, "shape"),
        ({"inputs": [{**ONES, "shape": []}]}, 422, "1 to 32 dimensions, got 0"),
        ({"inputs": [{**ONES, "shape": [0, 2], "data": []}]}, 422, "no rows"),
        ({"inputs": [{**ONES, "shape": [2**50, 2]}]}, 413, "at most 4096 rows"),
        ({"inputs": [{**ONES, "datatype": "FP31"}]}, 422, "unknown datatype 'FP31'; known are BOOL"),
        ({"inputs": [{**ONES, "data": [1]}]}, 422, "needs 2 numbers, but data has 1"),
        ({"inputs": [{**ONES, "data": [1, "a"]}]}, 422, "Expected `float`, got `str`"),
        ({"inputs": [{**ONES, "data": "ab"}]}, 422, "a list of FP32 numbers"),
        ({"inputs": [{**ONES, "data": 1}]}, 422, "a list of FP32 numbers"),
        ({"inputs": [{**ONES, "data": [[1], [1, 2]]}]}, 422, "ragged"),
        ({"inputs": [{**ONES, "data": [1e39, 1]}]}, 422, "3.40"),
        ({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32"}]}, 422, "neither data nor binary_data_size"),
        ({"inputs": [{**ONES, "parameters": {"binary_data_size": 8}}]}, 422, "both data and binary_data_size"),
        ({"inputs": [{**ONES, "parameters": {"binary_data_size": -8}}]}, 422, ">= 0"),
        (
            {"inputs": [{**ONES, "parameters": {"shared_memory_region": "r"}}]},
            422,
            "shared_memory_region is not supported",
        ),
        ({"inputs": [ONES], "parameters": {"timeout": "soon"}}, 422, "Expected `int`, got `str`"),
        ({"inputs": [ONES], "outputs": [{"name": "half"}, {"name": "half"}]}, 422, "requested twice"),
        ({"inputs": [ONES], "outputs": [{"name": "half", "parameters": {"classification": 1001}}]}, 422, "<= 1000"),
    ],
)
def test_invalid_body_is_rejected_with_a_detail(system: Stack, body: object, status: int, text: str) -> None:
    rejected(post(system, "arithmetic", body), status, text)


@pytest.mark.parametrize(
    ("shape", "behind", "status", "text"),
    [
        ([1], b"", 422, "neither data nor"),
        ([1], b"\x01", 400, "need at least 4 bytes, got 1"),
        ([2], b"\x01\0\0\0a\x09\0\0\0bc", 400, "element 1 of 2 should have 9 bytes, but 2 follow"),
        ([2], b"\x04\0\0\0abcd\x01", 400, "element 1 of 2 has no length"),
        ([1], b"\x01\0\0\0abc", 400, "2 bytes follow the last of 1"),
        ([8], b"\x01\0\0\0a", 400, "need at least 32 bytes, got 5"),
        ([1, 1], b"\x01\0\0\0\xff", 422, "element 0 is not UTF-8"),
        ([1, 2], b"\x01\0\0\0a", 422, "shape [rows] or [rows, 1], got [1, 2]"),
    ],
)
def test_invalid_bytes_elements_are_rejected_with_a_detail(
    system: Stack, shape: list[int], behind: bytes, status: int, text: str
) -> None:
    parameters = {"binary_data_size": len(behind)} if behind else {}
    tensor = {"name": "text", "shape": shape, "datatype": "BYTES", "parameters": parameters}
    rejected(post(system, "echo", {"inputs": [tensor]}, behind), status, text)


def test_header_length_must_match_the_json(system: Stack) -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    text = json.dumps({"inputs": [tensor]}).encode()
    url = f"{system.url}/v2/models/arithmetic/infer"

    def send(length: str, behind: bytes = bytes(8)) -> httpx.Response:
        return system.client.post(url, content=text + behind, headers={LENGTH: length})

    assert send(str(len(text))).status_code == 200
    rejected(send(str(len(text) + 9)), 400, f"is {len(text) + 9}, but the body has {len(text) + 8} bytes")
    rejected(send(str(len(text)), bytes(9)), 400, "a binary_data_size of 8, but 9 bytes follow")
    rejected(send("-1"), 400, "a number of bytes, got '-1'")
    rejected(send("9" * 400), 400, "a number of bytes")
    rejected(post(system, "arithmetic", {"inputs": [ONES]}, b"behind"), 400, "6 bytes follow the JSON")


def test_decompressed_body_size_is_limited(system: Stack) -> None:
    bomb = gzip.compress(b" " * 17_000_000)
    rejected(post(system, "arithmetic", bomb, headers={"content-encoding": "gzip"}), 413, "larger than 16777216")
    rejected(post(system, "arithmetic", b"x", headers={"content-encoding": "gzip"}), 400, "truncated")


def test_response_is_compressed_only_if_it_gets_shorter(system: Stack) -> None:
    """Short ones, compressed in the event loop and in a thread; each sent separately, then all pipelined."""
    arrays = [np.random.default_rng(count).random((1, count), np.float32) for count in (10, 500, 7_000)]

    def request(array: np.ndarray) -> bytes:
        parameters = {"binary_data_size": array.nbytes}
        tensor = {"name": "input", "shape": array.shape, "datatype": "FP32", "parameters": parameters}
        text = json.dumps({"inputs": [tensor]}).encode()
        head = f"POST /v2/models/echo/infer HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\n{LENGTH}: {len(text)}\r\n"
        return b"%b\r\n" % f"{head}content-length: {len(text) + array.nbytes}\r\n".encode() + text + array.tobytes()

    def check(responses: BinaryIO, array: np.ndarray) -> None:
        assert responses.readline().split()[1] == b"200"
        headers = http.client.parse_headers(responses)
        content = responses.read(int(headers["content-length"]))
        assert headers["content-encoding"] == (None if array.size == 10 else "gzip")
        data = json.loads(content if array.size == 10 else gzip.decompress(content))["outputs"][0]["data"]
        assert data == array[0].tolist()

    host, port = system.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as client, client.makefile("rb") as responses:
        for array in arrays * 2:
            client.sendall(request(array))
            check(responses, array)
        client.sendall(b"".join(map(request, reversed(arrays))))
        for array in reversed(arrays):
            check(responses, array)


def test_infer_needs_post_and_the_exact_path(system: Stack) -> None:
    assert system.client.get(f"{system.url}/v2/models/echo/infer").status_code == 405
    assert system.client.post(f"{system.url}/v2/models/echo/infer/", content=b"").status_code == 404
    assert system.client.post(f"{system.url}/v2/models/a%2Fb/infer", content=b"").status_code == 404
    bad_index = system.client.post(f"{system.url}/v2/repository/index", content=b'{"ready": 1}')
    rejected(bad_index, 400, 'expected {"ready": true or false}')


def test_shorter_of_header_and_body_timeout_applies(system: Stack) -> None:
    slow = {**ONES, "data": [1500, 0]}
    for timeout, headers in ((50_000, {}), (20_000_000, {"X-Request-Timeout": "0.05"})):
        body = {"inputs": [slow], "parameters": {"timeout": timeout}}
        rejected(post(system, "arithmetic", body, headers=headers), 504, "not answered within 0.0")


def test_api_keys_apply_to_their_models_only(stack: Callable[..., Stack]) -> None:
    client, monitor = "sb_client", "sb_monitor"
    system = stack(MODEL_PATH="simulated")
    keys = system.folder / "keys.toml"
    keys.write_text(
        f'[keys.client]\nsha256 = "{digest_of(client.encode()).hex()}"\nmodels = ["simulated"]\n'
        f'[keys.monitor]\nsha256 = "{digest_of(monitor.encode()).hex()}"\nrole = "monitor"\n'
    )
    system.gateway(API_KEYS_FILE=keys)
    system.worker()
    system.worker(MODEL_NAME="other")
    key = {"Authorization": f"Bearer {client}"}

    def get(path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return system.client.get(f"{system.url}/v2{path}", headers=headers)

    eventually(lambda: get("/models/simulated/ready", key).status_code == 200, 30)
    eventually(lambda: get("/models/other/stats", headers={"x-api-key": monitor}).status_code == 200, 30)
    assert get("/health/live").status_code == get("/health/ready").status_code == 200
    assert get("").status_code == get("/models/simulated").status_code == 401
    assert get("/models/simulated", key).status_code == 200
    assert get("/models/other", key).status_code == get("/models/other/config", key).status_code == 403
    assert get("/models/simulated/stats", key).status_code == 403
    index = system.client.post(f"{system.url}/v2/repository/index", headers=key).json()
    assert [entry["name"] for entry in index] == ["simulated"]
    tensor = {"name": "input", "shape": [1], "datatype": "BYTES", "data": ["a"]}
    assert post(system, "simulated", {"inputs": [tensor]}, headers=key).status_code == 200
    rejected(post(system, "other", {"inputs": [tensor]}, headers=key), 403, "this API key may not use this model")
    rejected(post(system, "simulated", {"inputs": [tensor]}), 401, "missing API key")


def test_statistics_are_served_on_the_management_port(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated")
    process = system.gateway(MANAGEMENT_PORT=0)
    line = next(line for line in process.log.read_text().splitlines() if "management on " in line)
    management = line.split("management on ")[1]
    assert system.client.get(f"{system.url}/v2/models/stats").status_code == 404
    assert system.client.get(f"{management}/v2/models/stats").status_code == 200
    assert "statistics" not in system.client.get(f"{system.url}/v2").json()["extensions"]
    assert system.client.get(f"{system.url}/v2/health/ready").status_code == 503  # no worker
    early = system.client.get(f"{system.url}/v2/models/simulated")
    rejected(early, 503, "no worker of model 'simulated' has announced its inputs yet")
    assert int(early.headers["retry-after"]) >= 1
