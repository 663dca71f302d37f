"""The engine on a device that several workers share: it computes only during its turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.execution.device_share import DeviceShare
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.observability.metrics import WorkerMetrics
from tests.brokers import eventually
from tests.worker.execution.test_engine import Doubler
from tests.worker.execution.test_overlap import Held, outcomes, submit


class Share(DeviceShare):
    """`free` while it is this worker's turn; counts the batches that have begun and not ended."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.on_device = self.begun = 0
        self.available = 0.5

    def begin(self) -> float:
        started = time.monotonic()
        assert self.free.wait(10)
        self.on_device += 1
        self.begun += 1
        return time.monotonic() - started

    def end(self) -> None:
        self.on_device -= 1
        assert self.on_device >= 0


@pytest.fixture(params=[False, True], ids=["exclusive", "overlapping"])
def model(request: pytest.FixtureRequest) -> Doubler:
    model = Held()
    model.overlaps = request.param
    model.release.set()
    return model


@pytest.fixture
def engine(model: Doubler) -> Iterator[Engine]:
    engine = Engine(model, 32, CostModel(), WorkerMetrics("m", "w"))
    engine.share = Share()
    engine.start()
    yield engine
    engine.share.free.set()
    engine.close()


def share_of(engine: Engine) -> Share:
    assert isinstance(engine.share, Share)
    return engine.share


def test_the_wait_for_a_turn_is_no_forward_and_no_stall(engine: Engine, model: Doubler) -> None:
    done = []
    engine.on_done = done.append
    [batch] = submit(engine, [1, 2])
    time.sleep(0.2)
    assert not model.ran and engine.working_since == 0.0
    share_of(engine).free.set()
    eventually(lambda: done == [batch])
    assert outcomes(batch) == [[2], [4]]
    assert batch.device_wait_s >= 0.19 and batch.forward_s < 0.1
    assert engine._costs.estimate(2) < 0.1
    assert engine._metrics.registry.get_sample_value(
        "smartbatch_device_wait_seconds_sum", {"model": "m", "version": "1", "worker": "w"}
    ) == pytest.approx(batch.device_wait_s)


def test_an_entry_whose_deadline_passes_while_it_waits_never_runs(engine: Engine, model: Doubler) -> None:
    done = []
    engine.on_done = done.append
    [batch] = submit(engine, [1, 2])
    batch.claimed_entries[0].deadline_at = time.monotonic() + 0.05
    time.sleep(0.1)
    share_of(engine).free.set()
    eventually(lambda: done == [batch])
    assert outcomes(batch) == ["DeadlineExceeded", [4]]
    assert model.ran == [[2]]


def test_every_turn_ends_whatever_happens_to_its_batch(engine: Engine, model: Doubler) -> None:
    def reject(rows: list[int]) -> None:
        if 3 in rows:
            raise RuntimeError("never 3")

    done = []
    engine.on_done = done.append
    share_of(engine).free.set()
    model.reject = reject
    batches = submit(engine, [1, 2], [3, 4], [5, -6], [7])
    eventually(lambda: len(done) == len(batches))
    if isinstance(model, Held):
        model.fails = lambda outputs: 16 in outputs
    batches += submit(engine, [8], [9])
    eventually(lambda: len(done) == len(batches))
    engine.between_batches(lambda: None)
    engine.call(lambda: done.append("called"))
    eventually(lambda: "called" in done)
    eventually(lambda: share_of(engine).on_device == 0)
    assert share_of(engine).begun >= len(batches) + 1
    assert engine.device_available == 0.5
