"""The pool: which rows the next batch takes, and that every entry ends exactly once."""

from __future__ import annotations

import random
import time
from collections.abc import Hashable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.errors import DeadlineExceeded, InvalidInput, ModelFailed
from smartbatch.worker.batching.cut import Costs
from smartbatch.worker.batching.pool import Part, Pool
from smartbatch.worker.core.batch import Batch, ClaimedEntry
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.observability.metrics import WorkerMetrics
from tests.brokers import eventually
from tests.worker.execution.test_engine import Doubler

NO_LIMIT = float("inf")


def launches_dominate(rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return 1000.0 + rows * sizes


def padding_dominates(rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return 0.001 + rows * sizes


def milliseconds(rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """A size of 1 takes a millisecond; nothing is gained by sharing."""
    return 1e-6 + 0.001 * rows * sizes


class Sized(Doubler):
    """Rows are numbers, and as large as their value. Doubles them."""

    sized = True

    def size(self, row: int) -> int:
        return abs(row)


def entry(*rows: int, timeout_s: float = 60.0, decoded: bool = True, group: Hashable = None) -> ClaimedEntry:
    """A claimed entry whose rows are as large as their values."""
    raw = Entry(f"{random.random()}", f"r{rows}", "gw", 1000, int(timeout_s * 1000), len(rows), 10, "raw", "", b"x")
    claimed = ClaimedEntry(raw, 1000, time.monotonic())
    claimed.decoded = Future()
    if decoded:
        decode(claimed, *rows, group=group)
    return claimed


def decode(claimed: ClaimedEntry, *rows: int, group: Hashable = None) -> None:
    claimed.rows = list(rows)
    claimed.sizes = [(row, group) for row in rows]
    claimed.decoded.set_result(None)


def pool_of(*claimed_entries: ClaimedEntry, sized: bool = True) -> Pool:
    pool = Pool(sized=sized)
    pool.add(list(claimed_entries))
    assert pool.ready()
    return pool


def rows_of(part: Part) -> list[Any]:
    if part.row_refs is None:
        return [claimed.rows for claimed in part.claimed_entries]
    return [claimed.rows[index] for claimed, index in part.row_refs]


def take(pool: Pool, costs: Costs = padding_dominates, max_rows: int = 32, max_tokens: float = NO_LIMIT) -> Part:
    return pool.take(costs, max_rows, max_tokens)


# --- rows of one size


def test_entries_of_one_size_share_one_batch_where_launches_dominate() -> None:
    pool = pool_of(*(entry(1) for _ in range(8)), sized=False)
    part = take(pool, launches_dominate)
    assert (len(part.claimed_entries), part.rows, part.row_refs, part.size) == (8, 8, None, 1)
    assert not pool and not pool.cut


def test_entries_of_one_size_are_cut_where_nothing_is_gained_by_sharing() -> None:
    pool = pool_of(*(entry(1) for _ in range(8)), sized=False)
    assert take(pool).rows == 1
    assert pool.cut and pool.rows == 7


def test_no_batch_of_one_size_exceeds_the_rows_except_for_one_large_entry() -> None:
    pool = pool_of(entry(1, 1, 1), entry(1, 1, 1), entry(*[1] * 9), sized=False)
    assert [take(pool, launches_dominate, max_rows=4).rows for _ in range(3)] == [3, 3, 9]
    assert not pool


def test_a_changed_limit_of_rows_applies_at_once() -> None:
    pool = pool_of(*(entry(1) for _ in range(60)), sized=False)
    assert take(pool, launches_dominate, max_rows=4).rows == 4
    pool.add([entry(1) for _ in range(4)])
    assert take(pool, launches_dominate, max_rows=30).rows == 30


def test_an_entry_that_is_not_decoded_is_taken_where_rows_have_one_size() -> None:
    pool = pool_of(entry(1, decoded=False), sized=False)
    assert take(pool).rows == 1


def test_of_rows_of_one_size_the_earliest_deadline_goes_first_then_the_oldest() -> None:
    late, first, second, urgent = entry(1), entry(1), entry(1), entry(1, timeout_s=5)
    late.deadline_at, first.deadline_at, second.deadline_at = 300.0 + time.monotonic(), *[200.0 + time.monotonic()] * 2
    second.deadline_at = first.deadline_at
    first.admitted_at = second.admitted_at - 1
    pool = pool_of(late, second, first, urgent, sized=False)
    order = [take(pool).claimed_entries for _ in range(4)]
    assert order == [[urgent], [first], [second], [late]]
    assert not pool


# --- rows of several sizes


def test_short_rows_do_not_share_a_batch_with_long_ones() -> None:
    pool = pool_of(entry(500), entry(10), entry(500), entry(10))
    assert [rows_of(take(pool, lambda rows, sizes: 50.0 + rows * sizes)) for _ in range(2)] == [[500, 500], [10, 10]]
    assert not pool


def aged(seconds: float, *rows: int, timeout_s: float = 60.0) -> ClaimedEntry:
    claimed = entry(*rows, timeout_s=timeout_s)
    claimed.admitted_at = time.monotonic() - seconds
    return claimed


def test_a_short_row_does_not_wait_for_long_ones_that_came_before_it() -> None:
    pool = pool_of(*(aged(0.4, 1000) for _ in range(8)), aged(0.1, 10))
    assert rows_of(take(pool, milliseconds)) == [10]


def test_a_long_row_does_not_wait_for_ever_behind_short_ones() -> None:
    pool, waited = pool_of(aged(0.0, 1000)), 0
    for _ in range(1000):
        pool.add([aged(0.01, 10)])
        assert pool.ready()
        if rows_of(take(pool, milliseconds)) == [1000]:
            break
        waited += 1
        for row in pool._rows:
            row.claimed.admitted_at -= 0.01  # what the batch took
    assert 9 <= waited <= 11  # its wait grows to 10 times that of a short one, which takes a hundredth of the time


def test_a_row_that_would_be_late_behind_the_others_goes_first() -> None:
    pool = pool_of(*(aged(0.1, 10) for _ in range(8)), aged(0.1, 1000, timeout_s=1.05))
    assert rows_of(take(pool, milliseconds)) == [1000]


def test_a_part_names_its_rows_and_the_largest_size() -> None:
    first, second = entry(7, 3), entry(5)
    part = take(pool_of(first, second), launches_dominate)
    assert part.row_refs == [(first, 1), (second, 0), (first, 0)]
    assert (part.rows, part.size) == (3, 7)
    assert sorted(map(id, part.claimed_entries)) == sorted([id(first), id(second)])


def test_rows_of_different_groups_never_share_a_batch() -> None:
    pool = pool_of(entry(5, group="a"), entry(5, group="b"), entry(5, 6, group="a"))
    assert sorted(rows_of(take(pool, launches_dominate)) for _ in range(2)) == [[5], [5, 5, 6]]


def test_no_batch_exceeds_the_tokens_or_the_rows() -> None:
    pool = pool_of(*(entry(10) for _ in range(10)))
    assert take(pool, launches_dominate, max_tokens=40).rows <= 4
    assert take(pool, launches_dominate, max_rows=3).rows <= 3
    assert pool.cut


def test_only_decoded_entries_are_taken() -> None:
    slow, quick = entry(5, decoded=False), entry(5)
    pool = pool_of(slow, quick)
    assert take(pool, launches_dominate).claimed_entries == [quick]
    assert pool.cut and pool.rows == 1 and not pool.ready()
    decode(slow, 5)
    assert pool.ready(32)
    assert take(pool, launches_dominate).claimed_entries == [slow]
    assert not pool


def test_a_batch_is_ready_once_enough_rows_are_decoded_or_all() -> None:
    slow, pool = entry(5, decoded=False), Pool(sized=True)
    pool.add([entry(5, 6, 7), slow])
    assert pool.ready() and pool.ready(3) and not pool.ready(4)
    decode(slow, 5)
    assert pool.ready(32)


def failed(*rows: int) -> ClaimedEntry:
    claimed = entry(*rows, decoded=False)
    claimed.error = InvalidInput("no")
    claimed.decoded.set_result(None)
    return claimed


def test_an_entry_that_can_not_be_decoded_is_counted_until_a_batch_has_taken_it() -> None:
    """A pool that looks empty would wait for a request for ever."""
    bad = failed(1)
    pool = pool_of(bad)
    assert pool.ready()
    state = pool.state()
    assert (state.rows, state.bytes, state.deadline_at) == (1, 10, bad.deadline_at)
    part = take(pool)
    assert (part.claimed_entries, part.row_refs, part.rows) == ([bad], [], 0)
    assert not pool and pool.rows == 0


def test_an_entry_whose_deadline_passes_while_it_is_decoded_is_not_waited_for() -> None:
    pool = Pool(sized=True)
    stuck = entry(1, decoded=False, timeout_s=0.0)
    pool.add([stuck])
    assert pool.ready()
    assert take(pool).claimed_entries == [stuck]


def test_a_cancelled_entry_leaves_with_the_next_batch_even_if_some_of_its_rows_ran() -> None:
    cut = entry(5, 500)
    pool = pool_of(cut, entry(5))
    first = take(pool)
    assert rows_of(first) == [5]
    cut.cancelled = True
    parts = [first]
    while pool:
        parts.append(take(pool))
    assert ended_by(parts)[id(cut)] == 1
    assert all(rows_of(part) in ([5], []) for part in parts)


def test_a_row_that_failed_to_decode_is_not_run_and_the_others_are() -> None:
    partial = entry(5, 6, 7)
    partial.partial = True
    partial.row_errors[1] = InvalidInput("no")
    assert rows_of(take(pool_of(partial), launches_dominate)) == [5, 7]
    none_left = entry(5)
    none_left.partial = True
    none_left.row_errors[0] = InvalidInput("no")
    part = take(pool_of(none_left))
    assert (part.claimed_entries, part.row_refs) == ([none_left], [])


def test_new_arrivals_are_reported_once() -> None:
    claimed_entries = [entry(1), entry(2)]
    pool = pool_of(*claimed_entries)
    assert pool.new_arrivals() == [claimed.admitted_at for claimed in claimed_entries]
    assert pool.new_arrivals() == []


def ended_by(parts: list[Part]) -> dict[int, int]:
    """How often each entry ended, by its identity."""
    count: dict[int, int] = {}
    for number, part in enumerate(parts):
        batch = Batch(f"b{number}", part.claimed_entries, "cost", part.row_refs)
        batch.end_entries()
        for claimed in batch.ended_entries:
            count[id(claimed)] = count.get(id(claimed), 0) + 1
    return count


# --- together with an engine


@pytest.fixture(params=[False, True], ids=["alone", "overlapping"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    model = Sized()
    model.overlaps = request.param
    engine = Engine(model, 32, CostModel(), WorkerMetrics("m", "w"))
    engine.start()
    yield engine
    engine.close()


@pytest.mark.parametrize("seed", range(10))
def test_every_entry_ends_exactly_once_with_the_output_of_each_row(engine: Engine, seed: int) -> None:
    draw = random.Random(seed)
    entries = [entry(*(draw.choice([3, 40, 500]) for _ in range(draw.randint(1, 6)))) for _ in range(30)]
    cancelled, late, bad = entries[3], entries[4], failed(1, 1)
    late.deadline_at = 0.0
    ended: list[ClaimedEntry] = []
    engine.on_done = lambda batch: ended.extend(batch.ended_entries)
    pool = pool_of(*entries, bad)
    batches = 0
    while pool:
        part = take(pool, lambda rows, sizes: 50.0 + rows * sizes, max_rows=8)
        cancelled.cancelled = cancelled.cancelled or batches == 5
        engine.submit(Batch(f"b{batches}", part.claimed_entries, "cost", part.row_refs))
        batches += 1
    eventually(lambda: len(ended) == 31)
    assert batches > 10
    assert len({id(claimed) for claimed in ended}) == 31
    assert isinstance(late.error, DeadlineExceeded)
    assert bad.error is not None
    for claimed in entries:
        if claimed not in (cancelled, late):
            assert claimed.outputs == [2 * row for row in claimed.rows]
            assert claimed.error is None and claimed.done


def test_an_entry_fails_at_once_and_only_once_when_one_of_its_parts_fails(engine: Engine) -> None:
    def reject(rows: list[int]) -> None:
        if 40 in rows:
            raise RuntimeError("unlucky")

    engine._model.reject = reject  # pyright: ignore[reportAttributeAccessIssue]
    whole, partial, other = entry(3, 40, 500), entry(4, 40, 501), entry(502)
    partial.partial = True
    ended: list[ClaimedEntry] = []
    engine.on_done = lambda batch: ended.extend(batch.ended_entries)
    pool = pool_of(whole, partial, other)
    while pool:
        part = take(pool)
        engine.submit(Batch("b", part.claimed_entries, "cost", part.row_refs))
    eventually(lambda: len(ended) == 3)
    assert isinstance(whole.error, ModelFailed) and "row 1" in str(whole.error)
    assert partial.error is None and list(partial.row_errors) == [1]
    assert (partial.outputs[0], partial.outputs[2]) == (8, 1002)
    assert other.outputs == [1004]
