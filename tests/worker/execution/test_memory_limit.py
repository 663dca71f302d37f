"""The memory limit is lowered at once and probed upward, less often after each failed probe."""

from __future__ import annotations

from smartbatch.worker.execution.memory_limit import MemoryBatchLimit


def batches_until_probe(memory_limit: MemoryBatchLimit) -> int:
    """Run full batches until a larger one is allowed."""
    for count in range(1, 100_000):
        if memory_limit.fitted(memory_limit.rows):
            return count
    raise AssertionError("never probed")


def test_what_did_not_fit_is_halved() -> None:
    memory_limit = MemoryBatchLimit(32)
    memory_limit.did_not_fit(32)
    memory_limit.did_not_fit(16)
    assert memory_limit.rows == 8


def test_it_never_falls_below_one_row() -> None:
    memory_limit = MemoryBatchLimit(2)
    memory_limit.did_not_fit(2)
    memory_limit.did_not_fit(1)
    assert memory_limit.rows == 1


def test_a_smaller_batch_that_did_not_fit_lowers_it_too() -> None:
    memory_limit = MemoryBatchLimit(32)
    memory_limit.did_not_fit(12)
    assert memory_limit.rows == 6


def test_the_limit_rises_again_step_by_step() -> None:
    memory_limit = MemoryBatchLimit(32)
    for rows in (32, 16, 8):
        memory_limit.did_not_fit(rows)
    assert memory_limit.rows == 4
    assert [batches_until_probe(memory_limit) for _ in range(3)] == [200, 200, 200]
    assert memory_limit.rows == 32
    assert not any(memory_limit.fitted(32) for _ in range(1000))


def test_a_failed_probe_doubles_the_wait_for_the_next() -> None:
    memory_limit = MemoryBatchLimit(32)
    memory_limit.did_not_fit(32)
    memory_limit.did_not_fit(16)
    waits = []
    for _ in range(9):
        waits.append(batches_until_probe(memory_limit))
        assert memory_limit.rows == 16
        memory_limit.did_not_fit(12)  # a probe need not be a full batch
        assert memory_limit.rows == 8
    assert waits == [200, 400, 800, 1600, 3200, 6400, 12800, 12800, 12800]


def test_a_successful_probe_resets_the_wait() -> None:
    memory_limit = MemoryBatchLimit(32)
    memory_limit.did_not_fit(32)
    memory_limit.did_not_fit(16)
    assert batches_until_probe(memory_limit) == 200
    memory_limit.did_not_fit(16)
    assert batches_until_probe(memory_limit) == 400
    memory_limit.fitted(9)  # nine rows are more than the eight that were known to fit
    assert batches_until_probe(memory_limit) == 200


def test_batches_below_the_limit_start_no_probe() -> None:
    memory_limit = MemoryBatchLimit(32)
    memory_limit.did_not_fit(32)
    assert not any(memory_limit.fitted(15) for _ in range(1000))
    assert memory_limit.rows == 16
