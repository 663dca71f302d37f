"""Overlapping batches: the next is launched while one is computed; failed batches run again exclusively."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from smartbatch.worker.core.batch import Batch
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.observability.metrics import WorkerMetrics
from tests.brokers import eventually
from tests.worker.execution.test_engine import Doubler, claimed


class Held(Doubler):
    """A device that computes until `release`; `fails(outputs)` selects batches that fail at completion."""

    overlaps = True

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()
        self.completed_by: list[str] = []
        self.fails: Callable[[list[int]], bool] = lambda outputs: False

    def separate(self, outputs: list[int], rows: int) -> list[int]:
        self.completed_by.append(threading.current_thread().name)
        assert self.release.wait(10)
        if self.fails(outputs):
            raise RuntimeError("unlucky")
        return outputs


@pytest.fixture
def model() -> Held:
    return Held()


@pytest.fixture
def engine(model: Held) -> Iterator[Engine]:
    engine = Engine(model, 32, CostModel(), WorkerMetrics("m", "w"))
    engine.start()
    yield engine
    model.release.set()
    engine.close()


def submit(engine: Engine, *batches: list[int]) -> list[Batch]:
    made = [Batch(f"b{n}", [claimed(row) for row in rows], "full") for n, rows in enumerate(batches)]
    for batch in made:
        engine.submit(batch)
    return made


def outcomes(batch: Batch) -> list[list[int] | str]:
    return [type(claimed.error).__name__ if claimed.error else claimed.outputs for claimed in batch.claimed_entries]


def test_the_next_batch_is_launched_before_the_previous_one_completes(engine: Engine, model: Held) -> None:
    done: list[Batch] = []
    engine.on_done = done.append
    first, second = submit(engine, [1, 2], [3])
    eventually(lambda: len(model.ran) == 2)
    assert not done and engine.running is first
    model.release.set()
    eventually(lambda: done == [first, second])
    assert outcomes(first) == [[2], [4]] and outcomes(second) == [[6]]
    assert set(model.completed_by) == {"completion"}


def test_each_batch_counts_only_its_own_time_on_the_device(engine: Engine, model: Held) -> None:
    done: list[Batch] = []
    engine.on_done = done.append
    began = time.monotonic()
    first, second = submit(engine, [1], [2])
    eventually(lambda: len(model.ran) == 2)
    time.sleep(0.1)
    assert began <= engine.working_since <= time.monotonic() - 0.1
    model.release.set()
    eventually(lambda: len(done) == 2)
    assert first.forward_s >= 0.1 > second.forward_s
    assert second.started_at >= first.started_at + first.forward_s
    assert engine.working_since == 0.0 and engine.running is None


@pytest.mark.parametrize("bad", [1, 4], ids=["in the first", "in the second"])
def test_a_failure_at_completion_is_attributed_to_its_row(engine: Engine, model: Held, bad: int) -> None:
    done: list[Batch] = []
    engine.on_done = done.append
    model.fails = lambda outputs: 2 * bad in outputs
    first, second = submit(engine, [1, 2], [3, 4])
    eventually(lambda: len(model.ran) == 2)
    model.release.set()
    eventually(lambda: len(done) == 2)
    want = ["ModelFailed" if row == bad else [2 * row] for row in (1, 2, 3, 4)]
    assert outcomes(first) + outcomes(second) == want


def test_two_batches_that_do_not_fit_together_lower_no_limit(engine: Engine, model: Held) -> None:
    done: list[Batch] = []
    engine.on_done = done.append

    def reject(rows: list[int]) -> None:
        if rows == [3, 4] and not model.release.is_set():
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.reject = reject
    first, second = submit(engine, [1, 2], [3, 4])
    eventually(lambda: len(model.ran) == 2)
    assert not done
    model.release.set()
    eventually(lambda: done == [first, second])
    assert outcomes(second) == [[6], [8]]
    assert engine.memory_limit == 32


def test_other_work_of_the_device_thread_waits_for_completion(engine: Engine, model: Held) -> None:
    done: list[object] = []
    engine.on_done = done.append
    [batch] = submit(engine, [1])
    engine.call(lambda: done.append("called"))
    eventually(lambda: len(model.ran) == 1)
    time.sleep(0.05)
    assert not done
    model.release.set()
    eventually(lambda: len(done) == 2)
    assert outcomes(batch) == [[2]]
    assert set(map(type, done)) == {Batch, str}


def test_unexpected_failures_of_a_model_end_no_thread(engine: Engine, model: Held) -> None:
    class Key:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("keys can't be compared")

    class Outputs(list[int]):
        def __iter__(self):
            raise RuntimeError("outputs can't be iterated")

    done: list[Batch] = []
    engine.on_done = done.append
    model.release.set()
    group, separate = model.group, model.separate
    model.group = lambda row: Key()  # pyright: ignore[reportAttributeAccessIssue]
    submit(engine, [1, 2])
    eventually(lambda: len(done) == 1)
    model.group = group
    model.separate = lambda outputs, rows: Outputs(separate(outputs, rows))
    submit(engine, [3])
    eventually(lambda: len(done) == 2)
    model.separate = separate
    [batch] = submit(engine, [4])
    eventually(lambda: len(done) == 3)
    assert outcomes(batch) == [[8]]


def test_close_waits_for_batches_that_fail_at_completion(model: Held) -> None:
    engine = Engine(model, 32, CostModel(), WorkerMetrics("m", "w"))
    engine.start()
    done: list[Batch] = []
    engine.on_done = done.append
    model.fails = lambda outputs: 2 in outputs
    [batch] = submit(engine, [1, 2])
    eventually(lambda: len(model.ran) == 1)
    threading.Timer(0.1, model.release.set).start()
    engine.close()
    assert done == [batch]
    assert outcomes(batch) == ["ModelFailed", [4]]
