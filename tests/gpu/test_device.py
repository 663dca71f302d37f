"""What only a real device can show. Without one, those that a CPU can run are run on it."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from loadtest.bench.rows.photos import photo
from loadtest.workload.text_model import minilm
from loadtest.workload.texts import docstrings
from smartbatch.shared.wire import Payload
from smartbatch.worker.core.batch import Batch
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.core.device import open_device
from smartbatch.worker.core.model import LoadContext, Model
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.images.decode import Preset, decode_image
from smartbatch.worker.images.device_jpeg import DeviceJpegs
from smartbatch.worker.models import resolve
from smartbatch.worker.models.torch_model import TorchModel
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.optimization import inductor, trees
from smartbatch.worker.optimization.network import ServedNetwork
from smartbatch.worker.optimization.variants import error_of
from smartbatch.worker.watchdog import EXIT_DEVICE_LOST
from tests.brokers import eventually
from tests.system.stack import Stack
from tests.worker.execution.test_engine import claimed

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
HALVES = ("bfloat16", "float16")
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}  # of the largest value
MODELS = Path(__file__).with_name("models.py")

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(150)]
needs_cuda = pytest.mark.skipif(not CUDA, reason="no CUDA device here")


def loaded(path: str, device: str = DEVICE, dtype: str = "float32", optimize: str = "none", rows: int = 8) -> Model:
    torch.manual_seed(1)
    model = resolve(path)
    weights = "random" if path in ("resnet18", "vit_b_16") else "default"
    model.load(LoadContext(device, dtype, optimize, weights, max_batch_size=rows))
    return model


def network_of(model: Model) -> ServedNetwork:
    assert isinstance(model, TorchModel) and model.network is not None
    return model.network


def outputs(model: Model, rows: list) -> np.ndarray:
    with torch.inference_mode():
        found = model.separate(model.forward(model.collate(rows)), len(rows))
    return np.stack([np.asarray(getattr(row, "values", row), np.float32) for row in found])  # (rows, …)


def run(engine: Engine, batches: list[list[torch.Tensor]]) -> list[Batch]:
    """Run batches of rows, of one request each, at most eight in flight."""
    done: list[Batch] = []
    places = threading.Semaphore(8)

    def on_done(batch: Batch) -> None:
        done.append(batch)
        places.release()

    engine.on_done = on_done
    engine.start()
    try:
        for number, rows in enumerate(batches):
            places.acquire()
            engine.submit(Batch(f"b{number}", [claimed(row, timeout_s=60) for row in rows], "full"))
        eventually(lambda: len(done) == len(batches), 60)
    finally:
        engine.close()
    return done


@pytest.mark.parametrize("optimize", ["none", pytest.param("auto", marks=needs_cuda)])
@pytest.mark.parametrize("dtype", ["float32", *(pytest.param(each, marks=needs_cuda) for each in HALVES)])
@pytest.mark.parametrize("name", ["resnet18", pytest.param("vit_b_16", marks=needs_cuda)])
def test_outputs_equal_those_of_the_cpu(name: str, dtype: str, optimize: str) -> None:
    reference, model = loaded(name, "cpu"), loaded(name, dtype=dtype, optimize=optimize)
    for count in (1, 2, 3, 5, 8):
        rows = [torch.randint(256, (3, 224, 224), dtype=torch.uint8) for _ in range(count)]
        expected, found = outputs(reference, rows), outputs(model, rows)
        assert np.abs(found - expected).max() <= TOLERANCE[dtype] * np.abs(expected).max(), (count, model.variant)


@pytest.mark.parametrize("dtype", ["float32", *(pytest.param(each, marks=needs_cuda) for each in HALVES)])
def test_every_variant_matches_eager_for_any_number_of_rows(dtype: str) -> None:
    network = network_of(loaded("resnet18", dtype=dtype))
    tried = []
    with torch.inference_mode():
        for name, make in network.candidates(4, 8):
            variant = make()
            for rows in range(1, 9):
                expected, found = (trees.tensors(run(network.example(rows))) for run in (network.eager, variant))
                error_of(expected, found, {getattr(torch, dtype)})  # raises beyond the tolerance
            tried.append(name)
    assert tried[:2] == ["channels_last", "folded channels_last"]
    assert ("CUDA graphs" in tried) == CUDA


def test_ten_thousand_rows_get_their_own_outputs() -> None:
    model = loaded(f"{MODELS}:Tagged", rows=32)
    left, batches = iter(range(10_000)), []
    while rows := [torch.full((4,), float(tag)) for _, tag in zip(range(random.randint(1, 32)), left, strict=False)]:
        batches.append(rows)
    done = run(Engine(model, 32, CostModel(), WorkerMetrics("m", "w")), batches)
    seen = 0
    for batch in done:
        for entry in batch.claimed_entries:
            assert entry.error is None
            assert np.array_equal(np.asarray(entry.outputs[0]), 2 * entry.rows[0].numpy())
            seen += 1
    assert seen == 10_000


def test_embeddings_equal_those_of_the_cpu() -> None:
    path = minilm()
    reference, model = loaded(path, "cpu"), loaded(path)
    rows = reference.decode(Payload("text", list(docstrings()[:64])))
    for start in range(0, 64, 16):
        part = rows[start : start + 16]
        np.testing.assert_allclose(outputs(model, part), outputs(reference, part), atol=2e-3)


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_the_devices_jpeg_decoder_gives_the_cpus_pixels() -> None:
    preset, file = Preset(256, 224), photo()
    rows = [torch.frombuffer(bytearray(file), dtype=torch.uint8)] * 4
    context = LoadContext(DEVICE, "float32", "none", "random")
    found = DeviceJpegs(open_device(context), preset).pixels(rows).cpu().float()  # (4, 3, 224, 224)
    expected = decode_image(file, preset, 50_000_000).float()  # (3, 224, 224)
    assert all((pixels - expected).abs().mean() < 3 for pixels in found)


@needs_cuda
@pytest.mark.skipif(not shutil.which(inductor.compiler()), reason="Inductor takes a C++ compiler, and there is none")
def test_a_network_compiled_for_the_device_matches_eager(tmp_path: Path) -> None:
    network = network_of(loaded("resnet18"))
    folder = tmp_path / network.key()
    inductor.run_compiler(inductor.CompileJob("resnet18", "cuda:0", "float32", "random", 1, str(folder)), limit_s=120)
    with torch.inference_mode():
        compiled = inductor.load(folder, torch.device("cuda:0"), network.eager, network.example(1))
        for rows in (1, 2, 5, 8):
            expected, found = (trees.tensors(run(network.example(rows))) for run in (network.eager, compiled))
            error_of(expected, found, {torch.float32})


@needs_cuda
def test_pinned_buffers_are_used_again() -> None:
    model = loaded(f"{MODELS}:Tagged", rows=32)
    batches = [[torch.full((4,), 1.0)] * 32] * 100
    run(Engine(model, 32, CostModel(), WorkerMetrics("m", "w")), batches)
    before = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    run(Engine(model, 32, CostModel(), WorkerMetrics("m", "w")), batches * 5)
    assert torch.cuda.host_memory_stats()["allocated_bytes.current"] <= before * 1.1


@needs_cuda
def test_a_batch_that_does_not_fit_is_split_and_the_limit_remembered() -> None:
    engine = Engine(loaded(f"{MODELS}:Greedy"), 8, CostModel(), WorkerMetrics("m", "w"))
    (batch,) = run(engine, [[torch.full((4,), float(tag)) for tag in range(8)]])
    assert [entry.error for entry in batch.claimed_entries] == [None] * 8
    assert engine.memory_limit <= 2


@needs_cuda
def test_a_lost_device_ends_its_worker_and_another_one_answers(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH=f"{MODELS}:Asserting", DEVICE="cuda", MAX_BATCH_SIZE=1, MAX_DELIVERIES=2)
    system.gateway()
    workers = [system.worker(), system.worker()]
    eventually(lambda: system.client.get(f"{system.url}/readyz").json()["ready_workers"] == {"Asserting": 2}, 60)
    bad = httpx.post(f"{system.url}/predict", json={"data": [[-1, 0, 0, 0]]}, timeout=60)
    assert bad.status_code == 500
    ended = [worker for worker in workers if worker.popen.poll() is not None]
    assert ended and all(worker.popen.poll() == EXIT_DEVICE_LOST for worker in ended)
    system.worker()
    good = httpx.post(f"{system.url}/predict", json={"data": [[1, 2, 3, 4]]}, timeout=60)
    assert good.json()["outputs"]["output"]["data"] == [[2.0, 4.0, 6.0, 8.0]]
