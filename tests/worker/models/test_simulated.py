import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from smartbatch.shared.errors import ModelLoadError
from smartbatch.shared.wire import Payload, Raw, Tensor
from smartbatch.worker.core import host_folder
from smartbatch.worker.models import LoadContext, Model, resolve
from smartbatch.worker.models.simulated import expected


def outputs(payload: Payload) -> list[list[float]]:
    model = resolve("simulated:base_ms=0,row_ms=0")
    rows = model.decode(payload)
    result = model.encode(model.separate(model.forward(model.collate(rows)), len(rows)), {})
    assert result.outputs is not None
    output = result.outputs["output"]
    assert output.shape == (len(rows), 10) and output.dtype == "float32"
    return np.frombuffer(output.data, np.float32).reshape(output.shape).tolist()


def test_outputs_depend_on_the_bytes_of_each_row():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    want = [expected(array[0].tobytes()), expected(array[1].tobytes())]
    assert outputs(Payload("image", [b"x", b"y"])) == [expected(b"x"), expected(b"y")]
    assert outputs(Payload("text", ["ä"])) == [expected("ä".encode())]
    assert outputs(Payload("raw", Raw(b"body", "a/b"))) == [expected(b"body")]
    assert outputs(Payload("tensor", Tensor("float32", (2, 3), array.tobytes()))) == want
    assert outputs(Payload("tensor", Tensor("float32", (2, 3), array.tobytes("F"), "F"))) == want


def test_outputs_are_reproducible_and_differ_by_bytes():
    assert len(expected(b"abc")) == 10 and all(0 <= value < 1 for value in expected(b"abc"))
    assert len({tuple(expected(str(n).encode())) for n in range(1000)}) == 1000
    code = "from smartbatch.worker.models.simulated import expected; print(expected(b'abc'))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == str(expected(b"abc"))


def test_a_batch_takes_base_and_row_time_and_the_next_begins_when_it_ends():
    model = resolve("simulated:base_ms=100,row_ms=25")
    batch = model.collate([model.example()] * 4)
    started, burnt = time.monotonic(), time.thread_time()
    first, second = model.forward(batch), model.forward(batch)
    assert time.monotonic() - started < 0.2
    model.separate(first, 4)
    assert 0.2 <= time.monotonic() - started < 0.4
    model.separate(second, 4)
    assert 0.4 <= time.monotonic() - started < 0.6
    assert time.thread_time() - burnt < 0.02


def test_loading_may_take_a_while():
    model = resolve("simulated:load_ms=30")
    started = time.monotonic()
    model.load(LoadContext())
    assert time.monotonic() - started >= 0.030


def test_workers_that_name_one_device_exclude_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host_folder.tempfile, "gettempdir", lambda: str(tmp_path))
    models = [resolve("simulated:base_ms=100,row_ms=0,device=gpu0") for _ in range(2)]
    started = time.monotonic()

    def run(model: Model) -> float:
        model.load(LoadContext())
        model.separate(model.forward(model.collate([model.example()])), 1)
        return time.monotonic() - started

    with ThreadPoolExecutor() as pool:
        first, second = sorted(pool.map(run, models))
    assert 0.1 <= first < 0.2 <= second
    assert models[0].device_id == "simulated-gpu0" and resolve("simulated").device_id == ""


@pytest.mark.parametrize(
    "part", ["device=", "device=a/b", "base_ms=fast", "speed=3", "row_ms=-1", "row_ms", "base_ms=nan", "base_ms=inf"]
)
def test_bad_parameter_names_the_known_ones(part):
    with pytest.raises(ModelLoadError, match=f"simulated:base_ms=4,row_ms=0.2,load_ms=0`, .* got '{part}'"):
        resolve(f"simulated:base_ms=1,{part}")


def test_serving_simulated_never_imports_torch():
    code = (
        "import sys; from smartbatch.worker.models import resolve, LoadContext; m = resolve('simulated');"
        "m.load(LoadContext());"
        "m.encode(m.separate(m.forward(m.collate([m.example()])), 1), {}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
