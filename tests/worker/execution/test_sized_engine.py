"""The engine with rows of several sizes: parts of entries, and memory that limits rows times size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
import torch

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.errors import ModelFailed
from smartbatch.worker.core.batch import Batch, ClaimedEntry
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.execution.engine import UNLIMITED, Engine
from smartbatch.worker.execution.memory_limit import PROBE_AFTER_BATCHES
from smartbatch.worker.observability.metrics import WorkerMetrics
from tests.brokers import eventually
from tests.worker.execution.test_engine import Doubler


class Padded(Doubler):
    """Rows are as large as their values."""

    sized = True

    def size(self, row: int) -> int:
        return row


def fits(tokens: int) -> Callable[[list[int]], None]:
    def reject(rows: list[int]) -> None:
        if len(rows) * max(rows) > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return reject


@pytest.fixture(params=[False, True], ids=["alone", "overlapping"])
def model(request: pytest.FixtureRequest) -> Padded:
    model = Padded()
    model.overlaps = request.param
    return model


@pytest.fixture
def metrics() -> WorkerMetrics:
    return WorkerMetrics("m", "w")


@pytest.fixture
def costs() -> CostModel:
    return CostModel()


@pytest.fixture
def engine(model: Padded, costs: CostModel, metrics: WorkerMetrics) -> Iterator[Engine]:
    engine = Engine(model, 32, costs, metrics)
    engine.start()
    yield engine
    engine.close()


def entry(*rows: int) -> ClaimedEntry:
    made = ClaimedEntry(Entry("1-0", "r", "gw", 0, 60_000, len(rows), 1, "raw", "", b"x"), 0, time.monotonic())
    made.rows = list(rows)
    made.sizes = [(row, None) for row in rows]
    made.rows_left = len(rows)
    made.decoded = Future()
    made.decoded.set_result(None)
    return made


def run(engine: Engine, *parts: list[tuple[ClaimedEntry, int]]) -> list[Batch]:
    """Run batches of these rows one behind the other, and wait for all."""
    done: list[Batch] = []
    engine.on_done = done.append
    for number, row_refs in enumerate(parts):
        claimed_entries = list({id(claimed): claimed for claimed, _ in row_refs}.values())
        engine.submit(Batch(f"b{number}", claimed_entries, "cost", row_refs))
    eventually(lambda: len(done) == len(parts))
    return sorted(done, key=lambda batch: batch.id)


def whole(*claimed_entries: ClaimedEntry) -> list[tuple[ClaimedEntry, int]]:
    return [(claimed, index) for claimed in claimed_entries for index in range(len(claimed.rows))]


def gauge(metrics: WorkerMetrics, name: str) -> float:
    value = metrics.registry.get_sample_value(name, {"model": "m", "version": "1", "worker": "w"})
    assert value is not None, name
    return value


def test_parts_of_an_entry_run_in_several_batches_and_the_last_one_ends_it(engine: Engine, model: Padded) -> None:
    cut, other = entry(3, 100), entry(4)
    first, second = run(engine, [(cut, 0), (other, 0)], [(cut, 1)])
    assert model.ran == [[3, 4], [100]]
    assert (first.ended_entries, second.ended_entries) == ([other], [cut])
    assert (cut.outputs, other.outputs) == ([6, 200], [8])
    assert (first.rows, first.rows_run, second.rows) == (2, 2, 1)


def test_a_batch_counts_its_real_and_its_padded_size(engine: Engine, costs: CostModel) -> None:
    [batch] = run(engine, whole(entry(10), entry(20), entry(40)))
    assert (batch.real_size, batch.padded_size) == (70, 120)


def test_a_row_that_fails_changes_no_size(engine: Engine, model: Padded) -> None:
    def reject(rows: list[int]) -> None:
        if 13 in rows:
            raise RuntimeError("unlucky")

    model.reject = reject
    bad = entry(13)
    [batch] = run(engine, whole(entry(10), entry(10), bad, entry(10)))
    assert isinstance(bad.error, ModelFailed)
    assert (batch.real_size, batch.padded_size) == (30, 30)


def test_memory_is_remembered_as_rows_times_size(engine: Engine, model: Padded, metrics: WorkerMetrics) -> None:
    model.reject = fits(400)
    long = [entry(100) for _ in range(8)]
    run(engine, whole(*long))
    assert [each.outputs for each in long] == [[200]] * 8
    assert engine.memory_limit == engine.known_memory_limit == 400
    model.ran.clear()
    short = [entry(10) for _ in range(32)]
    run(engine, whole(*short))
    assert [len(rows) for rows in model.ran] == [32]  # 320: as many rows as ever
    model.ran.clear()
    run(engine, whole(*[entry(100) for _ in range(8)]))
    assert [len(rows) for rows in model.ran] == [4, 4]  # without trying eight again
    assert (
        metrics.registry.get_sample_value(
            "smartbatch_out_of_memory_total", {"model": "m", "version": "1", "worker": "w"}
        )
        == 1
    )


def test_rows_of_mixed_sizes_fit_in_the_order_of_their_batch(engine: Engine, model: Padded) -> None:
    model.reject = fits(400)
    run(engine, whole(*[entry(100) for _ in range(8)]))
    model.ran.clear()
    mixed = [entry(10) for _ in range(10)] + [entry(100) for _ in range(5)]
    run(engine, whole(*mixed))
    assert all(len(rows) * max(rows) <= 400 for rows in model.ran)
    assert all(each.outputs == [2 * each.rows[0]] for each in mixed)


def test_a_row_too_large_for_the_memory_fails_alone_and_limits_no_others(
    engine: Engine, model: Padded, metrics: WorkerMetrics
) -> None:
    model.reject = fits(400)
    huge, small = entry(1000), entry(10)
    run(engine, whole(small, huge))
    assert isinstance(huge.error, ModelFailed) and "memory" in str(huge.error)
    assert small.outputs == [20]
    assert engine.memory_limit == UNLIMITED
    assert engine.known_memory_limit == 32
    [name] = [
        sample.name
        for family in metrics.registry.collect()
        for sample in family.samples
        if "memory_batch" in sample.name
    ]
    assert gauge(metrics, name) == 32


def test_more_memory_is_tried_again_although_no_batch_reaches_the_limit_exactly(engine: Engine, model: Padded) -> None:
    model.reject = fits(400)
    run(engine, whole(*[entry(100) for _ in range(8)]))
    model.reject = fits(10_000)
    run(engine, *[whole(*[entry(99) for _ in range(4)]) for _ in range(PROBE_AFTER_BATCHES)])
    assert engine.memory_limit == 800


def test_entries_that_end_without_their_row_being_run_end_once(engine: Engine, model: Padded) -> None:
    """The next part finds its entry ended, even if it can't wait for the first to be completed."""
    for _ in range(200):
        cut = entry(3, 100)
        cut.deadline_at = 0.0
        first, second = run(engine, [(cut, 0)], [(cut, 1)])
        assert (first.ended_entries, second.ended_entries) == ([cut], [])


@pytest.mark.parametrize("bad", [3, 100])
@pytest.mark.parametrize("partial", [False, True])
def test_a_row_that_fails_in_a_cut_entry(engine: Engine, model: Padded, bad: int, partial: bool) -> None:
    def reject(rows: list[int]) -> None:
        if bad in rows:
            raise RuntimeError("unlucky")

    model.reject = reject
    cut = entry(3, 100, 5)
    cut.partial = partial
    batches = run(engine, [(cut, 0), (cut, 2)], [(cut, 1)])
    assert sum(len(batch.ended_entries) for batch in batches) == 1
    if partial:
        assert cut.error is None and list(cut.row_errors) == [cut.rows.index(bad)]
        assert [cut.outputs[n] for n in range(3) if cut.rows[n] != bad] == [
            2 * row for row in (3, 100, 5) if row != bad
        ]
    else:
        assert isinstance(cut.error, ModelFailed)


def test_forwards_are_recorded_with_the_size_to_which_rows_were_padded(engine: Engine, costs: CostModel) -> None:
    recorded: list[tuple[int, int]] = []
    costs.record = lambda rows, seconds, *, size=1, warm_up=False: recorded.append((rows, size))
    run(engine, whole(entry(10), entry(70)), whole(entry(5)))
    assert recorded == [(2, 70), (1, 5)]
