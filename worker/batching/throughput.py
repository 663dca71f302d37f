"""Estimates how many rows a second a worker can serve, from which gateways predict whether a deadline is attainable.

The time of a batch lasts from when it could start until the device is free again: it includes waiting for slow
decodes, but no time without work. Time for which other workers had the device is left out, and the estimate multiplied
by the share of time that they leave: turns are too rare for a mean of the last batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from smartbatch.worker.batching.cut import cut_batches
from smartbatch.worker.core.cost_model import OUTLIER, CostModel, bucket_of

RECENT_ROWS = 128  # rows whose sizes stand for those of the traffic
_WEIGHT = 0.2  # of the newest measurement in a running mean


class ThroughputEstimator:
    """Rows a second. Written by the batcher, read by the status report, both in the event loop.

    Under a backlog this is the rate of the batches that were served. Otherwise it is the best rate measured for any
    batch size: with a lower one, a worker that was slow once would get no requests with which to recover.

    Where rows have sizes, it is the predicted rate of a backlog of rows as large as the last ones.
    """

    def __init__(self, costs: CostModel, max_rows: int) -> None:
        self._costs = costs
        self.max_rows = max_rows
        self.device_available: Callable[[], float] = lambda: 1.0  # what others leave of a shared device's time
        self._by_rows: dict[int, _MeanBatch] = {}  # keyed by bucket of rows
        self._backlog: _MeanBatch | None = None
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT_ROWS)  # size of a row, and bytes of its payload
        self._slowdown = 1.0  # running mean of the seconds of a batch by the predicted ones of its forward

    def record(self, rows: int, seconds: float, *, backlog: bool) -> None:
        """Add a batch of rows of one size. `backlog`: other entries waited behind it.

        A batch without rows is ignored. The duration of one that took far longer than expected (the process was paused,
        an input was slow to decode) is capped at OUTLIER times the expected one.
        """
        if not rows:
            return
        mean = self._by_rows.get(bucket_of(rows))
        expected_s = rows / mean.rows_per_s if mean else self._costs.estimate(rows)
        if expected_s:
            seconds = min(seconds, OUTLIER * expected_s)
        self._by_rows.setdefault(bucket_of(rows), _MeanBatch()).record(rows, seconds)
        if not backlog:
            self._backlog = None
            return
        self._backlog = self._backlog or _MeanBatch()
        self._backlog.record(rows, seconds)

    def record_sized(self, rows: list[tuple[int, float]], seconds: float, predicted_s: float) -> None:
        """Add a batch of rows of several sizes: (size, bytes of the payload) of each."""
        self._recent.extend(rows)
        if predicted_s:
            self._slowdown += _WEIGHT * (min(seconds / predicted_s, OUTLIER) - self._slowdown)

    def rows_per_s(self) -> float:
        """Return the estimate; 0 while nothing is known."""
        return self._alone_rows_per_s() * self.device_available()

    def _alone_rows_per_s(self) -> float:
        if self._recent:
            return len(self._recent) / max(float(self._recent_seconds()[0].sum()), 1e-6)
        if self._backlog:
            return self._backlog.rows_per_s
        largest = bucket_of(self.max_rows)  # the limit may have been lowered since a size was measured
        measured = {1 << size: mean.rows_per_s for size, mean in self._by_rows.items() if size <= largest}
        warm_up = ((rows, seconds) for rows, seconds in self._costs.table().items() if rows not in measured)
        unserved = (min(rows, self.max_rows) / max(seconds, 1e-6) for rows, seconds in warm_up)
        return max((*measured.values(), *unserved), default=0.0)

    def bytes_share(self) -> tuple[float, float]:
        """Return how the cost of a row follows from the bytes of its payload: (bytes of the mean row, share of its cost
        that is proportional to bytes). (0, 0) where rows have one size or nothing is known."""
        if len(self._recent) < RECENT_ROWS // 8:
            return 0.0, 0.0
        seconds, size = self._recent_seconds()
        mean, mean_s = float(size.mean()), float(seconds.mean())
        variance = float(size.var())
        if not variance or not mean_s:
            return mean, 0.0
        slope = float(((size - mean) * (seconds - mean_s)).mean()) / variance
        return mean, min(1.0, max(0.0, slope * mean / mean_s))

    def batch_full_s(self) -> float:
        """Return the seconds of a full batch at the estimated rate."""
        rate = self.rows_per_s()
        return self.max_rows / rate if rate else 0.0

    def _recent_seconds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the seconds that each of the last rows takes in a backlog of them, and the bytes of each."""
        sizes, size_bytes = np.array(sorted(self._recent)).T
        sizes = sizes.astype(int)
        seconds, start = np.empty(len(sizes)), 0
        for rows in cut_batches(sizes, self._costs.estimates, self.max_rows, np.inf):
            seconds[start : start + rows] = self._costs.estimate(rows, int(sizes[start + rows - 1])) / rows
            start += rows
        return seconds * self._slowdown, size_bytes


class _MeanBatch:
    """Running means of the rows and the seconds of batches."""

    def __init__(self) -> None:
        self._rows = self._seconds = 0.0
        self._count = 0

    def record(self, rows: int, seconds: float) -> None:
        self._count += 1
        weight = max(_WEIGHT, 1 / self._count)
        self._rows += weight * (rows - self._rows)
        self._seconds += weight * (seconds - self._seconds)

    @property
    def rows_per_s(self) -> float:
        return self._rows / max(self._seconds, 1e-6)
