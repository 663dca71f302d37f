"""`smartbatch dead` as users and scripts run it."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from PIL import Image

from smartbatch.gateway.formats import parse
from smartbatch.shared.model_info import InputSpec, ModelInfo, encode
from smartbatch.shared.wire import Payload, Raw, Tensor, pack_payload
from tests.brokers import Broker, eventually
from tests.deploy.test_cli import Ended
from tests.entries import entry_fields
from tests.system.stack import Process

TAKEN = "ended 3 workers, 2 of them while isolated (MAX_DELIVERIES is 3)"


class Letters:
    """Dead letters of a model on an empty broker, and a runner of the command."""

    def __init__(self, broker: Broker, model: str = "m") -> None:
        self.broker = broker
        self.model = model
        self.keys = f"smartbatch:{{{model}}}:"
        broker.sync.hset("smartbatch:models", model, encode(ModelInfo(model, "simulated", InputSpec(("raw",)), 32)))

    def add(self, payload: Payload, *, died_ms: int = 1795433558335, apart: bool = False, trace: str = "") -> str:
        packed = pack_payload(payload)
        request_id = f"r{self.broker.sync.xlen(f'{self.keys}dead')}"
        if apart:
            self.broker.sync.set(f"{self.keys}body:{request_id}", packed)
        header = {
            "t": "1795433550000",
            "timeout_ms": "30000",
            "rows": str(max(1, payload.rows)),
            "bytes": str(len(packed)),
        }
        fields = entry_fields(id=request_id, **header, kind=payload.kind, trace=trace, payload=b"" if apart else packed)
        fields = {"reason": TAKEN, "entry_id": "1795433550000-0", "deliveries": 3, **fields}
        return self.broker.sync.xadd(f"{self.keys}dead", fields, id=f"{died_ms}-*").decode()

    def run(self, *arguments: str, code: int = 0, **environ: str) -> Ended:
        ended = Ended("dead", *arguments, REDIS_URL=self.broker.url, **environ)
        assert ended.code == code, (ended.out, ended.err)
        return ended

    def json(self, *arguments: str, code: int = 0, **environ: str):
        return json.loads("\n".join(self.run(*arguments, "--json", code=code, **environ).out))

    @property
    def count(self) -> int:
        return self.broker.sync.xlen(f"{self.keys}dead")


@pytest.fixture
def letters(broker: Broker) -> Letters:
    return Letters(broker)


def raw(text: str = "hello") -> Payload:
    return Payload("raw", Raw(text.encode(), "text/plain"))


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "JPEG")
    return file.getvalue()


# --- list


def test_list_shows_the_newest_first(letters: Letters) -> None:
    letters.add(raw())
    letters.add(raw("more of it"), died_ms=1795433558400, trace="00-abc-[red]\x1b[2J")
    header, first, second = letters.run("list").out
    assert " ".join(header.split()) == "id model when request reason kind rows bytes deliveries trace"
    assert first.split()[:4] == ["1795433558400-0", "m", "2026-11-23T11:32:38Z", "r1"]
    assert first.rstrip().endswith(r"00-abc-[red]\x1b[2J")
    assert re.fullmatch(rf" *{second.split()[0]} .* {re.escape(TAKEN)} +raw +1 +\d+ +3 *", second)
    assert len(letters.run("list", "--limit", "1").out) == 2


def test_list_as_json_has_all_models_or_the_named_one(letters: Letters, broker: Broker) -> None:
    letters.add(raw())
    Letters(broker, "other").add(raw())
    assert [letter["model"] for letter in letters.json("list")] == ["m", "other"]
    [letter] = letters.json("list", "--name", "other")
    assert letter == {
        "id": "1795433558335-0",
        "model": "other",
        "version": 1,
        "when": "2026-11-23T11:32:38Z",
        "request": "r0",
        "entry": "1795433550000-0",
        "admitted": "2026-11-23T11:32:30Z",
        "reason": TAKEN,
        "deliveries": 3,
        "kind": "raw",
        "rows": 1,
        "bytes": len(pack_payload(raw())),
        "trace": "",
    }


def test_empty_list_is_reported(letters: Letters) -> None:
    assert letters.run("list").out == ["no dead letters"]
    assert letters.json("list") == []


# --- show


def test_show_describes_an_image_and_saves_it_unchanged(letters: Letters, tmp_path: Path) -> None:
    letter_id = letters.add(Payload("image", [jpeg()], {"top_k": 3}), apart=True)
    file = tmp_path / "cat.jpg"
    shown = letters.json("show", letter_id, "--save", str(file))
    image = {"bytes": len(jpeg()), "format": "JPEG", "width": 40, "height": 30}
    assert shown["payload"] == {"kind": "image", "images": [image], "options": {"top_k": 3}}
    assert shown["saved"] == [str(file)]
    assert file.read_bytes() == jpeg()


def test_show_saves_several_images_as_numbered_files(letters: Letters, tmp_path: Path) -> None:
    letter_id = letters.add(Payload("image", [jpeg(), b"broken"]))
    shown = letters.json("show", letter_id, "--save", str(tmp_path / "cat.jpg"))
    assert shown["saved"] == [str(tmp_path / "cat-1.jpg"), str(tmp_path / "cat-2.jpg")]
    assert (tmp_path / "cat-2.jpg").read_bytes() == b"broken"
    assert shown["payload"]["images"][1]["unreadable"].startswith("UnidentifiedImageError")


def test_show_saves_a_tensor_as_npy(letters: Letters, tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    letter_id = letters.add(Payload("tensor", Tensor("float32", (2, 3), array.tobytes())))
    file = tmp_path / "two.npy"
    shown = letters.json("show", letter_id, "--save", str(file))
    assert shown["payload"] == {"kind": "tensor", "dtype": "float32", "shape": [2, 3], "options": {}}
    np.testing.assert_array_equal(np.load(file), array)


def test_show_saves_texts_as_json_that_predict_accepts(letters: Letters, tmp_path: Path) -> None:
    letter_id = letters.add(Payload("text", ["a cat", "ein Kätzchen"]))
    file = tmp_path / "texts.json"
    shown = letters.json("show", letter_id, "--save", str(file))
    assert shown["payload"]["texts"] == ["a cat", "ein Kätzchen"]
    assert json.loads(file.read_text()) == {"data": ["a cat", "ein Kätzchen"]}


def test_show_saves_several_inputs_as_the_messagepack_that_predict_takes(letters: Letters, tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    inputs = {
        "photo": Payload("image", [jpeg(), jpeg()]),
        "numbers": Payload("tensor", Tensor("float32", (2, 3), array.tobytes("F"), "F")),
        "words": Payload("text", ["a cat", "ein Kätzchen"]),
    }
    letter_id = letters.add(Payload("inputs", inputs, {"top_k": 3}))
    file = tmp_path / "inputs.msgpack"
    shown = letters.json("show", letter_id, "--save", str(file))
    image = {"bytes": len(jpeg()), "format": "JPEG", "width": 40, "height": 30}
    assert shown["payload"] == {
        "kind": "inputs",
        "inputs": {
            "photo": {"images": [image, image]},
            "numbers": {"dtype": "float32", "shape": [2, 3]},
            "words": {"texts": ["a cat", "ein Kätzchen"]},
        },
        "options": {"top_k": 3},
    }
    specs = tuple(InputSpec((payload.kind,), name=name) for name, payload in inputs.items())
    info = ModelInfo("m", "m", InputSpec(("inputs",)), 8, inputs=specs)
    content: Any = parse(file.read_bytes(), "application/octet-stream", info, max_rows=8).content
    assert content["photo"] == inputs["photo"] and content["words"] == inputs["words"]
    tensor = content["numbers"].content
    assert np.frombuffer(tensor.data, np.float32).reshape(2, 3, order=tensor.order).tolist() == array.tolist()
    lines = letters.run("show", letter_id).out
    assert any(line.startswith("payload inputs") and "numbers" in line for line in lines), lines


def test_show_has_a_line_per_field_and_no_control_sequences(letters: Letters) -> None:
    lines = letters.run("show", letters.add(raw(), trace="\x1b[2J")).out
    fields = dict(line.split("  ", 1) for line in lines)
    fields = {name: value.strip() for name, value in fields.items()}
    assert (fields["reason"], fields["trace"], fields["payload content_type"]) == (TAKEN, r"\x1b[2J", "text/plain")


def test_show_reports_an_expired_input_and_saves_no_empty_file(letters: Letters, tmp_path: Path) -> None:
    letter_id = letters.add(raw(), apart=True)
    letters.broker.sync.delete(f"{letters.keys}body:r0")
    assert letters.json("show", letter_id)["payload"] == "expired"
    [line] = letters.run("show", letter_id, "--save", str(tmp_path / "x"), code=2).err
    assert line == "smartbatch: can't save the payload: expired"
    assert list(tmp_path.iterdir()) == []


# --- requeue


@pytest.fixture
def worker(letters: Letters, tmp_path: Path):
    environ = {"REDIS_URL": letters.broker.url, "MODEL_PATH": "simulated", "MODEL_NAME": "m"}
    process = Process([sys.executable, "-m", "smartbatch.deploy.cli", "worker"], environ, tmp_path / "worker.log")
    eventually(lambda: "ready" in process.log.read_text(), 30)
    yield process
    process.kill()


def test_requeue_runs_a_letter_and_reports_the_outcome(letters: Letters, worker: Process) -> None:
    first, second = letters.add(raw()), letters.add(raw("b"), died_ms=1795433558400, apart=True)
    broken = letters.add(Payload("tensor", Tensor("float32", (0, 3), b"")), died_ms=1795433558500)
    outputs = {"output": {"dtype": "float32", "shape": [1, 10]}}
    assert letters.json("requeue", first, second) == [
        {"id": first, "model": "m", "version": 1, "request": f"requeue-{first}", "outcome": "ok", "result": outputs},
        {"id": second, "model": "m", "version": 1, "request": f"requeue-{second}", "outcome": "ok", "result": outputs},
    ]
    assert letters.run("requeue", broken, code=1).out == [
        f"{broken}  invalid_input: expected at least one row, got none"
    ]
    assert letters.count == 0
    assert [key for key in letters.broker.sync.keys("*") if b":body:" in key or b":reply:" in key] == []


def test_requeue_keeps_a_letter_that_was_not_run(letters: Letters) -> None:
    letter_id = letters.add(raw())
    [shown] = letters.json("requeue", letter_id, code=1, REQUEST_TIMEOUT="0.2")
    assert (shown["outcome"], shown["detail"]) == ("kept", "not answered within 0.2 s (is a worker running?)")
    assert letters.count == 1
    assert letters.broker.sync.xlen(f"{letters.keys}requests") == 0


def test_requeue_without_waiting_names_the_reply_key(letters: Letters, worker: Process) -> None:
    for _ in range(3):
        letters.add(raw(), died_ms=int(time.time() * 1000))
    shown = letters.json("requeue", "--all", "--no-wait")
    assert [each["outcome"] for each in shown] == ["queued"] * 3
    assert letters.count == 0
    for each in shown:
        key = each["detail"].removeprefix("reply at ").removesuffix(" for 60 s")
        assert key == f"{letters.keys}reply:{each['request']}"
        assert "result" in msgpack.unpackb(eventually(lambda key=key: letters.broker.sync.get(key)))


# --- drop


def test_drop_removes_a_letter_and_its_payload(letters: Letters) -> None:
    letter_id, other = letters.add(raw(), apart=True), letters.add(raw(), died_ms=1795433558400, apart=True)
    assert letters.run("drop", letter_id, letter_id).out == ["deleted 1 dead letter"]
    assert letters.count == 1
    assert letters.broker.sync.keys("*body*") == [f"{letters.keys}body:r1".encode()]
    assert letters.json("drop", other) == {"deleted": 1}


def test_drop_of_all_letters_asks_for_confirmation(letters: Letters) -> None:
    letters.add(raw())
    letters.add(raw(), died_ms=1795433558400)
    ended = letters.run("drop", "--all", code=1)  # no confirmation is given
    assert "Delete 2 dead letters? [y/N]" in "\n".join(ended.out + ended.err)
    assert letters.count == 2
    assert letters.run("drop", "--all", "--yes").out == ["deleted 2 dead letters"]
    assert letters.count == 0


# --- wrong ids


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("show", "abc"), "invalid dead letter ID 'abc'; expected one like 1795433558335-0"),
        (("show", "1-1"), "no dead letter 1-1 in any model; `smartbatch dead list` lists what exists"),
        (("show", "1-1", "--name", "m"), "no dead letter 1-1 in model 'm'; `smartbatch dead list` lists what exists"),
        (
            ("drop", "1795433558335-0", "1-1"),
            "no dead letter 1-1 in any model; `smartbatch dead list` lists what exists",
        ),
        (("requeue", "1795433558335-0", "-1"), None),
        (("requeue",), "specify the IDs of dead letters, or --all"),
        (("drop", "1-1", "--all"), "specify the IDs of dead letters, or --all"),
    ],
)
def test_a_wrong_id_is_rejected_before_anything_changes(
    letters: Letters, arguments: tuple[str, ...], text: str
) -> None:
    letters.add(raw())
    ended = letters.run(*arguments, code=2)
    assert text is None or text in ended.err[-1]
    assert not any("Traceback" in line for line in ended.err)
    assert letters.count == 1
    assert letters.broker.sync.xlen(f"{letters.keys}requests") == 0


def test_an_id_of_two_models_requires_the_name(letters: Letters, broker: Broker) -> None:
    letter_id = letters.add(raw())
    other = Letters(broker, "other")
    other.add(raw())
    [line] = letters.run("drop", letter_id, code=2).err
    assert line == f"smartbatch: dead letter {letter_id} exists in several models (m, other); select one with --name"
    letters.run("drop", letter_id, "--name", "other")
    assert (letters.count, other.count) == (1, 0)
