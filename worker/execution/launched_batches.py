"""Batches that the device computes while the next one is being prepared: launched by one thread, landed by another.

The device runs them one after the other, in the order of their launch; so does the landing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from smartbatch.worker.core.batch import Batch, ClaimedEntry

RowRef = tuple[ClaimedEntry, int]  # a rider and which of its rows


class LaunchedBatch:
    """A batch whose forward was begun and whose outputs may not be there yet."""

    __slots__ = ("batch", "launched_at", "outputs", "row_refs")

    def __init__(self, batch: Batch, row_refs: list[RowRef], outputs: Any, launched_at: float) -> None:
        self.batch = batch
        self.row_refs = row_refs
        self.outputs = outputs
        self.launched_at = launched_at  # monotonic


class LaunchedBatches:
    """`launch` and `until_clear` are called by the device thread, `next` and `landed` by the landing thread."""

    def __init__(self) -> None:
        self._flights: deque[LaunchedBatch] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._landed_at = 0.0

    def launch(self, launched: LaunchedBatch) -> None:
        with self._changed:
            self._flights.append(launched)
            self._changed.notify_all()

    def until_clear(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._flights)

    def next(self) -> LaunchedBatch | None:
        """Wait for the oldest flight; None once closed and clear."""
        with self._changed:
            self._changed.wait_for(lambda: self._flights or self._closed)
            return self._flights[0] if self._flights else None

    def completed(self) -> None:
        """The oldest is down, and all that was to be said of it."""
        with self._changed:
            self._flights.popleft()
            self._landed_at = time.monotonic()
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def begun_at(self, launched: LaunchedBatch) -> float:
        """When the device could begin with it: it was launched, and the one before was down."""
        return max(launched.launched_at, self._landed_at)

    @property
    def oldest(self) -> LaunchedBatch | None:
        """The one that the device is computing. Any thread may ask."""
        with self._changed:
            return self._flights[0] if self._flights else None
