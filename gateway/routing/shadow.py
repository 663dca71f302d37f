"""Copies of requests for a shadow version: their answers are thrown away, but counted and compared with the real ones.

A copy never takes a real request's place: it is made only while the version has few of them in its queue, and only one
that has no weight can be a shadow.
"""

from __future__ import annotations

import random
import time
from typing import Any

from smartbatch.gateway.queue.model_queue import ModelQueue
from smartbatch.gateway.queue.queued_request import Outcome
from smartbatch.gateway.routing.comparison import Difference, difference
from smartbatch.shared.broker.queue.admission import NewEntry
from smartbatch.shared.errors import WireError
from smartbatch.shared.wire import Result, unpack_reply

COPIES_PER_WORKER = 128  # at once in this process: four batches of the default size


class Shadow:
    """One model's shadow version in one gateway process. Owned by the router; used in its event loop."""

    def __init__(self, queue: ModelQueue, share: float) -> None:
        self.queue = queue
        self.share = share
        self.counts = queue.metrics.shadow

    def copy(self, entry: NewEntry, copy_id: str, deadline_at: float) -> ShadowCopy | None:
        """Send a copy of a request that is being sent, or return None for one that is not to be copied."""
        if self.share < 1 and random.random() >= self.share:
            return None
        workers = max(1, sum(partition.workers for partition in self.queue.partitions))  # 0: not read yet
        if len(self.queue.outstanding) >= COPIES_PER_WORKER * workers:
            self.counts.skipped += 1
            return None
        copied = NewEntry(copy_id, entry.timeout_ms, entry.rows, entry.kind, entry.payload)
        copy = ShadowCopy(self, copied, deadline_at)
        self.queue.submit(copy)
        return copy

    def count(self, real: Result, copied: Outcome) -> None:
        """Compare the results of a request and of its copy."""
        found = self._difference(real, copied)
        if found is None:
            self.counts.failed += 1
            return
        self.counts.compared += 1
        self.counts.different += found.disagrees
        self.counts.largest = max(self.counts.largest, found.largest)

    def _difference(self, real: Result, copied: Outcome) -> Difference | None:
        if isinstance(copied, Exception):
            return None
        try:
            result = unpack_reply(copied).result
        except WireError:
            return None
        return None if result is None else difference(real, result)


class ShadowCopy:
    """One copy, as a QueuedRequest in the shadow's queue."""

    admitted_at = 0.0
    partition: Any = None
    waiting = True

    def __init__(self, shadow: Shadow, entry: NewEntry, deadline_at: float) -> None:
        self.entry = entry
        self.started_at = time.monotonic()
        self.deadline_at = deadline_at
        self._shadow = shadow
        self._real: Result | None = None
        self._copied: Outcome | None = None

    def answered(self, real: Result | None) -> None:
        """The request has a result. Without one there is nothing to compare."""
        if real is None:
            self.end(ValueError("the request failed"))
        elif self._copied is not None:
            self._shadow.count(real, self._copied)
        else:
            self._real = real

    def move_to(self, queue: Any) -> bool:
        return False

    def end(self, outcome: Outcome) -> None:
        if not self.waiting:
            return
        self.waiting = False
        self._shadow.queue.release(self, answered=not isinstance(outcome, Exception))
        if self._real is not None:
            self._shadow.count(self._real, outcome)
        else:
            self._copied = outcome
