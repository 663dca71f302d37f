"""Batches that have been launched on the device and whose outputs may not be there yet."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from smartbatch.worker.core.batch import Batch, RowRef


class LaunchedBatch:
    """A batch whose forward has been launched and whose outputs may not be there yet."""

    __slots__ = ("batch", "launched_at", "outputs", "row_refs")

    def __init__(self, batch: Batch, row_refs: list[RowRef], outputs: Any, launched_at: float) -> None:
        self.batch = batch
        self.row_refs = row_refs
        self.outputs = outputs
        self.launched_at = launched_at  # monotonic


class LaunchedBatches:
    """Launched batches in the order of their launch, which is the order in which the device computes them.

    The device thread calls `launch` and `wait_empty`, the completion thread `next` and `completed`.
    """

    def __init__(self) -> None:
        self._batches: deque[LaunchedBatch] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._completed_at = 0.0

    def launch(self, launched: LaunchedBatch) -> None:
        with self._changed:
            self._batches.append(launched)
            self._changed.notify_all()

    def wait_empty(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._batches)

    def next(self) -> LaunchedBatch | None:
        """Wait for the oldest batch; None once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._closed)
            return self._batches[0] if self._batches else None

    def completed(self) -> None:
        """Remove the oldest batch."""
        with self._changed:
            self._batches.popleft()
            self._completed_at = time.monotonic()
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def started_at(self, launched: LaunchedBatch) -> float:
        """Return when the device could start it: it was launched and the one before was completed."""
        return max(launched.launched_at, self._completed_at)

    @property
    def oldest(self) -> LaunchedBatch | None:
        """The batch that the device is computing. Any thread may read it."""
        with self._changed:
            return self._batches[0] if self._batches else None
