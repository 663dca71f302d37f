"""Claims entries from a partition into the pool: how many, and with which fill lock.

Only the holder of the fill lock fills a batch, so idle workers never tear one batch into several small ones.
docs/protocol.md argues why each claim is safe.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Protocol

from smartbatch.shared.broker.queue.claims import Claim, Mode, WorkerQueue
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.worker.batching.batch_times import BatchTimes
from smartbatch.worker.batching.pool import Pool
from smartbatch.worker.core.batch import Limits
from smartbatch.worker.queue.entry_tracker import EntryTracker
from smartbatch.worker.queue.failure_detection import FailureDetector

log = logging.getLogger(__name__)

FILL_LOCK_SLACK_MS = 100  # how long the fill lock outlasts the wait that it was taken for
POOL_S = 4.0  # predicted seconds of the rows in the pool, at most
POOL_BATCHES = 4  # of MAX_BATCH_SIZE rows, if rows have sizes


class Source(Protocol):
    """A partition to claim from: what it has for the batcher."""

    queue: WorkerQueue
    tracker: EntryTracker
    failure_detector: FailureDetector

    @property
    def workers(self) -> int: ...


class Claiming:
    """Owned by the batcher; makes one claim at a time."""

    def __init__(self, pool: Pool, times: BatchTimes, limits: Limits) -> None:
        self._pool = pool
        self._times = times
        self.limits = limits
        self.may_hold_fill_lock = False
        self._releases: set[asyncio.Task[None]] = set()

    def enter(self, source: Source) -> None:
        """Claim from this partition from now on."""
        self.source = source
        self.waiting: float = math.inf  # entries on the stream after the last claim; inf once that is outdated
        self._left_waiting = 0  # entries on the stream after the last claim
        self.last_id = ""  # the group's last-delivered-id after the last claim

    @property
    def sole_worker(self) -> bool:
        """Whether no other worker serves this partition."""
        return self.source.workers == 1

    async def claim(self, mode: Mode, *, hold_ms: int, **how) -> Claim:
        """Claim as many entries as the pool has room for. `how`: see WorkerQueue.claim. Raises BrokerUnavailable."""
        pool = self._pool
        if mode != "ahead" and hold_ms > 0:
            self.may_hold_fill_lock = True
        started = time.monotonic()
        claim = await self.source.queue.claim(
            mode,
            room_rows=max(1, self.room() if mode == "ahead" else self._first_rows() - pool.rows),
            room_bytes=max(1, self.limits.max_bytes - pool.bytes),
            held_rows=pool.rows,
            hold_ms=hold_ms,
            **how,
        )
        now = time.monotonic()
        if "after_wakeup_s" not in how and "after_entry" not in how:
            self._times.record_claim(now - started)
        self.waiting = self._left_waiting = claim.waiting
        self.last_id = claim.last_id
        pool.next_too_large = claim.next_too_large
        pool.last_id = claim.last_id if mode != "ahead" else ""
        if claim.entries:
            isolated = claim.kind == "isolated"
            pool.add(self.source.tracker.receive(claim.entries, claim.now_ms, now, isolated=isolated))
        return claim

    # --- how many rows

    def room(self) -> int:
        """Return how many more rows the pool takes while the device is busy.

        A larger pool is cut better. But rows on the stream can be claimed by workers that join or are free soon, so of
        more than one batch a worker takes only its share.
        """
        most = self.limits.pool_rows or (POOL_BATCHES if self._pool.sized else 1) * self.limits.max_rows
        most = min(most, max(self._first_rows(), self._rows_of_the_pool()))
        held = self._pool.rows
        if not self.sole_worker:
            most = min(most, max(self._first_rows(), (held + self._left_waiting) // self.source.workers))
        return most - held

    def _first_rows(self) -> int:
        """Return how many rows to claim with the device free: one batch, or, if no other worker could run them, POOL_S
        of work."""
        most = self.limits.max_rows
        batch = self._pool.next_rows(most, self._times.of, most, self._times.row_size)
        return min(most, max(batch, self._rows_of_the_pool())) if self.sole_worker else batch

    def _rows_of_the_pool(self) -> int:
        """Return how many rows the pool holds at most, if a batch isn't larger."""
        return int(POOL_S / max(self._times.row_s, 1e-6))

    # --- the fill lock

    def hold_ms(self, seconds: float) -> int:
        """Return for how long a claim takes the fill lock to wait for `seconds`; 0 if no batch waits."""
        return math.ceil(seconds * 1000) + FILL_LOCK_SLACK_MS if self.limits.window_s > 0 else 0

    def release_fill_lock(self) -> None:
        """Release the lock without waiting for the reply. If the call gets lost, the lock expires by itself."""
        task = asyncio.create_task(_release(self.source.queue))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)


async def _release(queue: WorkerQueue) -> None:
    try:
        await queue.release()
    except BrokerUnavailable as error:
        log.warning("release of the fill lock failed: %s", error)
