"""A histogram for hot paths: it counts in a plain list, and hands on to prometheus_client only when somebody looks.

prometheus_client takes a lock twice and walks over the bounds for each value: for the eight values of one request that
was a sixth of the gateway's time.
"""

from __future__ import annotations

from bisect import bisect_left

from prometheus_client import Histogram


class Tally:
    """One labelled child of a histogram. One thread."""

    __slots__ = ("_bounds", "_child", "_counts", "_sum")

    def __init__(self, child: Histogram) -> None:
        self._child = child
        self._bounds: list[float] = child._upper_bounds
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1  # a bound belongs to its bucket
        self._sum += value

    def settle(self) -> None:
        """Add to the histogram what was observed since."""
        counts, self._counts = self._counts, [0] * len(self._bounds)
        total, self._sum = self._sum, 0.0
        for bucket, count in zip(self._child._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        self._child._sum.inc(total)

    def total(self) -> tuple[int, float]:
        """Return how many values were observed so far, and their sum."""
        self.settle()
        return int(sum(bucket.get() for bucket in self._child._buckets)), self._child._sum.get()
