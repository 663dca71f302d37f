"""The engine: failing rows fail alone, batches fit the memory, expired and cancelled entries never run."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import torch

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.errors import DeadlineExceeded, InvalidInput, ModelFailed
from smartbatch.shared.model_info import InputSpec
from smartbatch.shared.wire import Payload, Result
from smartbatch.worker.core.batch import Batch, ClaimedEntry
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.core.model import LoadContext, Model
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.execution.memory_limit import PROBE_AFTER_BATCHES
from smartbatch.worker.observability.metrics import WorkerMetrics
from tests.brokers import eventually


class Doubler(Model):
    """Rows are numbers; doubles them. `reject(rows)` may raise."""

    input = InputSpec(("raw",))

    def __init__(self) -> None:
        self.ran: list[list[int]] = []
        self.reject: Callable[[list[int]], None] = lambda rows: None

    def load(self, context: LoadContext) -> None: ...

    def example(self) -> int:
        return 0

    def decode(self, payload: Payload) -> list[int]:
        return []

    def group(self, row: int) -> str:
        return "negative" if row < 0 else "positive"

    def collate(self, rows: Any) -> list[int]:
        return list(rows)

    def forward(self, batch: list[int]) -> list[int]:
        self.ran.append(batch)
        self.reject(batch)
        return [2 * row for row in batch]

    def separate(self, outputs: list[int], rows: int) -> list[int]:
        return outputs

    def encode(self, rows: Any, options: dict[str, Any]) -> Result:
        return Result(values=list(rows))


@pytest.fixture(params=[False, True], ids=["alone", "overlapping"])
def model(request: pytest.FixtureRequest) -> Doubler:
    """Of both kinds; a failed batch of an overlapping model runs once more exclusively."""
    model = Doubler()
    model.overlaps = request.param
    return model


@pytest.fixture
def engine(model: Doubler) -> Iterator[Engine]:
    engine = Engine(model, 32, CostModel(), WorkerMetrics("m", "w"))
    engine.start()
    yield engine
    engine.close()


def fits(most: int) -> Callable[[list[int]], None]:
    def reject(rows: list[int]) -> None:
        if len(rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return reject


def claimed(*rows: Any, timeout_s: float = 10.0) -> ClaimedEntry:
    entry = Entry("1-0", f"r{rows}", "gw", 0, int(timeout_s * 1000), len(rows), 1, "raw", "", b"x")
    made = ClaimedEntry(entry, 0, time.monotonic())
    made.rows = list(rows)
    made.decoded = Future()
    made.decoded.set_result(None)
    return made


def run(engine: Engine, claimed_entries: list[ClaimedEntry]) -> Batch:
    done: list[Batch] = []
    engine.on_done = done.append
    engine.submit(Batch("b1", claimed_entries, "full"))
    return eventually(lambda: done and done[0])


def test_every_row_gets_its_own_output(engine: Engine) -> None:
    claimed_entries = [claimed(1), claimed(2, 3), claimed(4)]
    run(engine, claimed_entries)
    assert [each.outputs for each in claimed_entries] == [[2], [4, 6], [8]]


def test_rows_that_cannot_be_stacked_run_as_sub_batches(engine: Engine, model: Doubler) -> None:
    claimed_entries = [claimed(1), claimed(-2), claimed(3, -4)]
    run(engine, claimed_entries)
    assert model.ran == [[1, 3], [-2, -4]]
    assert claimed_entries[2].outputs == [6, -8]


def test_one_bad_row_in_a_batch_fails_alone(engine: Engine, model: Doubler) -> None:
    def reject(rows: list[int]) -> None:
        if 13 in rows:
            raise RuntimeError("unlucky")

    model.reject = reject
    claimed_entries = [claimed(n) for n in range(32)]
    run(engine, claimed_entries)
    assert [n for n, each in enumerate(claimed_entries) if each.error] == [13]
    assert isinstance(claimed_entries[13].error, ModelFailed)
    assert [each.outputs for n, each in enumerate(claimed_entries) if n != 13] == [
        [2 * n] for n in range(32) if n != 13
    ]


@pytest.mark.parametrize("error", [ValueError("secret"), TypeError("secret"), KeyError("secret"), SystemExit(3)])
def test_an_error_of_forward_is_the_models_fault_and_its_text_stays_in_the_log(
    engine: Engine, model: Doubler, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def reject(rows: list[int]) -> None:
        if 3 in rows:
            raise error

    model.reject = reject
    claimed_entries = [claimed(1), claimed(3)]
    run(engine, claimed_entries)
    assert claimed_entries[0].error is None
    assert isinstance(claimed_entries[1].error, ModelFailed)
    assert str(claimed_entries[1].error) == f"the model failed on this input ({type(error).__name__})"
    assert error in [record.exc_info[1] for record in caplog.records if record.exc_info]


def test_invalid_input_raised_by_forward_is_the_clients_fault(engine: Engine, model: Doubler) -> None:
    def reject(rows: list[int]) -> None:
        if 3 in rows:
            raise InvalidInput("three is not accepted")

    model.reject = reject
    claimed_entries = [claimed(1), claimed(3)]
    run(engine, claimed_entries)
    assert isinstance(claimed_entries[1].error, InvalidInput)
    assert str(claimed_entries[1].error) == "three is not accepted"


def test_a_batch_too_large_for_memory_is_halved_and_the_limit_remembered(engine: Engine, model: Doubler) -> None:
    model.reject = fits(10)
    claimed_entries = [claimed(n) for n in range(32)]
    run(engine, claimed_entries)
    assert all(each.error is None for each in claimed_entries)
    assert engine.memory_limit == 8
    model.ran.clear()
    run(engine, [claimed(n) for n in range(32)])
    assert [len(rows) for rows in model.ran] == [8, 8, 8, 8]


def test_the_memory_limit_is_probed_upward(engine: Engine, model: Doubler) -> None:
    assert engine.warm_up_failed(16, torch.OutOfMemoryError("CUDA out of memory"))
    for _ in range(PROBE_AFTER_BATCHES // 4):
        run(engine, [claimed(n) for n in range(32)])
    assert engine.memory_limit == 16


def test_no_row_is_skipped_when_the_limit_falls_within_a_batch(engine: Engine, model: Doubler) -> None:
    assert engine.warm_up_failed(32, MemoryError())
    model.reject = fits(5)
    claimed_entries = [claimed(n) for n in range(32)]
    run(engine, claimed_entries)
    assert [each.outputs for each in claimed_entries] == [[2 * n] for n in range(32)]
    assert engine.memory_limit == 4


def test_a_single_row_too_large_for_memory_fails_alone_and_lowers_no_limit(engine: Engine, model: Doubler) -> None:
    def reject(rows: list[int]) -> None:
        if 13 in rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.reject = reject
    claimed_entries = [claimed(n) for n in range(32)]
    run(engine, claimed_entries)
    assert [n for n, each in enumerate(claimed_entries) if each.error] == [13]
    assert str(claimed_entries[13].error) == "the device has not enough memory for this one row"
    assert engine.memory_limit == 32


def test_memory_is_freed_after_the_failed_batch_is_released(engine: Engine, model: Doubler) -> None:
    held: list[Callable[[], object]] = []
    alive: list[bool] = []

    class OnDevice(list[int]):
        pass

    def collate(rows: list[int]) -> OnDevice:
        batch = OnDevice(rows)
        held.append(weakref.ref(batch))
        return batch

    def forward(batch: OnDevice) -> list[int]:
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(batch)

    model.collate, model.forward = collate, forward  # pyright: ignore[reportAttributeAccessIssue]
    model.free_memory = lambda: alive.append(held[-1]() is not None)
    run(engine, [claimed(1), claimed(2)])
    assert alive == [False]


@pytest.mark.parametrize(("bad", "forwards"), [({5}, 11), ({5, 20}, 19), ({0, 1, 30, 31}, 19), (set(range(32)), 63)])
def test_bad_rows_are_found_in_few_forwards(engine: Engine, model: Doubler, bad: set[int], forwards: int) -> None:
    def reject(rows: list[int]) -> None:
        if bad & set(rows):
            raise RuntimeError("unlucky")

    model.reject = reject
    claimed_entries = [claimed(n) for n in range(32)]
    run(engine, claimed_entries)
    assert {n for n, each in enumerate(claimed_entries) if each.error} == bad
    assert len(model.ran) == forwards + model.overlaps


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_a_row_that_would_end_the_thread_fails_alone(engine: Engine, model: Doubler, error: BaseException) -> None:
    def reject(rows: list[int]) -> None:
        if 3 in rows:
            raise error

    model.reject = reject
    claimed_entries = [claimed(1), claimed(3)]
    run(engine, claimed_entries)
    assert (claimed_entries[0].outputs, claimed_entries[0].error) == ([2], None)
    assert isinstance(claimed_entries[1].error, ModelFailed)


def test_a_row_that_cannot_be_grouped_fails_alone(engine: Engine, model: Doubler) -> None:
    model.group = lambda row: 1 // row  # pyright: ignore[reportAttributeAccessIssue]
    claimed_entries = [claimed(1), claimed(0), claimed(1)]
    run(engine, claimed_entries)
    assert isinstance(claimed_entries[1].error, ModelFailed)
    assert [claimed_entries[0].outputs, claimed_entries[2].outputs] == [[2], [2]]


def test_after_a_lost_device_nothing_more_is_run(engine: Engine, model: Doubler) -> None:
    def reject(rows: list[int]) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    lost: list[str] = []
    engine.on_lost = lost.append
    model.reject = reject
    run(engine, [claimed(n) for n in range(32)])
    assert lost == ["RuntimeError: CUDA error: device-side assert triggered"]
    assert len(model.ran) == 1 + model.overlaps


@pytest.mark.parametrize("works", [True, False])
def test_an_unclear_device_error_is_judged_by_trying_the_device(engine: Engine, model: Doubler, works: bool) -> None:
    def reject(rows: list[int]) -> None:
        if 3 in rows:
            raise RuntimeError("CUDA error: invalid configuration argument")

    lost: list[str] = []
    engine.on_lost = lost.append
    model.reject = reject
    model.device_works = lambda: works
    claimed_entries = [claimed(1), claimed(3)]
    run(engine, claimed_entries)
    assert bool(lost) is not works
    assert (claimed_entries[0].error is None) is works


def test_expired_cancelled_and_lost_entries_never_run(engine: Engine, model: Doubler) -> None:
    expired, cancelled, lost = claimed(1, timeout_s=0), claimed(2), claimed(3)
    cancelled.cancelled = True
    lost.lost = True
    run(engine, [expired, cancelled, lost, claimed(4)])
    assert model.ran == [[4]]
    assert isinstance(expired.error, DeadlineExceeded)


def test_a_decode_beyond_its_deadline_does_not_delay_the_batch(engine: Engine, model: Doubler) -> None:
    slow = claimed(1, timeout_s=0.2)
    slow.decoded = Future()
    quick = claimed(2)
    run(engine, [slow, quick])
    assert isinstance(slow.error, DeadlineExceeded)
    assert quick.outputs == [4]


def test_a_wrong_number_of_outputs_fails_the_rows(engine: Engine, model: Doubler) -> None:
    model.separate = lambda outputs, rows: outputs[:-1]  # pyright: ignore[reportAttributeAccessIssue]
    claimed_entries = [claimed(1), claimed(2)]
    run(engine, claimed_entries)
    assert all(isinstance(each.error, ModelFailed) for each in claimed_entries)
