"""Estimates of the device's speed: the latency of a forward by its rows, and the throughput from which gateways
predict whether a deadline is attainable.

Latency is measured at warm-up and with every forward. The time of a batch for the throughput lasts from when it could
start until the device is free again: it includes waiting for slow decodes, but no time without work.
"""

from __future__ import annotations

OUTLIER = 3.0  # the duration of a batch is capped at this multiple of the expected one
_WEIGHT = 0.2  # of the newest measurement in a running mean


class LatencyEstimator:
    """Running means of forward times per power of two of rows. Written by the device threads, read by the batcher."""

    def __init__(self) -> None:
        self._mean_s: dict[int, float] = {}
        self._count: dict[int, int] = {}

    def record(self, rows: int, seconds: float, *, warm_up: bool = False) -> None:
        """Add a measurement. The first real one replaces that of a warm-up, which is often slow."""
        bucket = _bucket(rows)
        count = self._count[bucket] = self._count.get(bucket, 0) + (not warm_up)
        mean = self._mean_s.get(bucket, seconds)
        weight = 1.0 if count <= 1 else max(_WEIGHT, 1 / count)
        self._mean_s[bucket] = mean + weight * (seconds - mean)

    def estimate(self, rows: int) -> float:
        """Return the seconds of a forward of `rows`, by the nearest bucket that was measured; 0 before any was."""
        known = self._mean_s
        if not known:
            return 0.0
        bucket = _bucket(rows)
        if bucket in known:
            return known[bucket]
        # list(): a device thread may add a bucket meanwhile
        nearest = min(list(known), key=lambda candidate: (abs(candidate - bucket), -candidate))
        return known[nearest]

    def table(self) -> dict[int, float]:
        """Return the mean seconds by rows (the upper end of each bucket)."""
        return {1 << bucket: mean for bucket, mean in sorted(self._mean_s.items())}


class ThroughputEstimator:
    """Rows a second. Written by the batcher, read by the status report, both in the event loop.

    Under a backlog this is the rate of the batches that were served. Otherwise it is the best rate measured for any
    batch size: with a lower one, a worker that was slow once would get no requests with which to recover.
    """

    def __init__(self, latency: LatencyEstimator, max_rows: int) -> None:
        self._latency = latency
        self.max_rows = max_rows
        self._by_size: dict[int, _MeanBatch] = {}  # keyed by bucket of rows
        self._backlog: _MeanBatch | None = None

    def record(self, rows: int, seconds: float, *, backlog: bool) -> None:
        """Add a batch. `backlog`: it was closed because it was full, so other entries waited behind it.

        A batch without rows is ignored. The duration of one that took far longer than expected (the process was paused,
        an input was slow to decode) is capped at OUTLIER times the expected one.
        """
        if not rows:
            return
        mean = self._by_size.get(_bucket(rows))
        expected_s = rows / mean.rows_per_s if mean else self._latency.estimate(rows)
        if expected_s:
            seconds = min(seconds, OUTLIER * expected_s)
        self._by_size.setdefault(_bucket(rows), _MeanBatch()).record(rows, seconds)
        if not backlog:
            self._backlog = None
            return
        self._backlog = self._backlog or _MeanBatch()
        self._backlog.record(rows, seconds)

    def rows_per_s(self) -> float:
        """Return the estimate; 0 while nothing is known."""
        if self._backlog:
            return self._backlog.rows_per_s
        largest = _bucket(self.max_rows)  # the limit may have been lowered since a size was measured
        measured = {1 << size: mean.rows_per_s for size, mean in self._by_size.items() if size <= largest}
        warm_up = ((rows, seconds) for rows, seconds in self._latency.table().items() if rows not in measured)
        unserved = (min(rows, self.max_rows) / max(seconds, 1e-6) for rows, seconds in warm_up)
        return max((*measured.values(), *unserved), default=0.0)

    def batch_full_s(self) -> float:
        """Return the seconds of a full batch at the estimated rate."""
        rate = self.rows_per_s()
        return self.max_rows / rate if rate else 0.0


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


def _bucket(rows: int) -> int:
    """Return the exponent of the smallest power of two that holds `rows`."""
    return max(0, rows - 1).bit_length()
