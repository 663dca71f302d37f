"""Predicts the seconds of a forward from its rows and the size to which they are padded. Learned at warm-up, and from
every forward since.

As long as all rows have one size: a running mean per power of two of rows, interpolated. Then n rows padded to size L
take about

    a + b·n·L + c·n·L²

(launch, work per element, attention), fitted by least squares with exponential forgetting.
"""

from __future__ import annotations

import numpy as np

OUTLIER = 3.0  # a forward that takes more than this multiple of the predicted time counts less: a paused process
_WEIGHT = 0.2  # of the newest measurement in a running mean
FIRST_FORWARDS = 8  # before there are so many, none is an outlier
_KEEP = 0.97  # weight of an old forward in the fit after each new one
_RIDGE = 1e-3  # pull of the fit towards its last coefficients, for what the latest forwards say nothing about


class CostModel:
    """Written by the device threads, read by the batcher."""

    def __init__(self) -> None:
        self._by_rows = _RowTable()
        self._by_size = _SizeFit()
        self.first_size = 0  # of the first forward, which is one of the model's example
        self._sized = False  # whether another size was recorded since

    def record(self, rows: int, seconds: float, *, size: int = 1, warm_up: bool = False) -> None:
        """Add a forward of `rows` padded to `size`."""
        self.first_size = self.first_size or size
        self._sized = self._sized or size != self.first_size
        if self._sized or size != 1:
            self._by_size.record(rows, size, seconds)
        if not self._sized:
            self._by_rows.record(rows, seconds, warm_up=warm_up)

    def estimate(self, rows: int, size: int = 1) -> float:
        """Return the predicted seconds of a forward; 0 before any was recorded."""
        if not self._sized:
            return self._by_rows.estimate(rows)
        return float(self.estimates(np.array([rows]), np.array([size]))[0])

    def estimates(self, rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return the predicted seconds of many forwards. The arrays are broadcast."""
        if self._sized:
            return self._by_size.estimates(rows, sizes)
        return self._by_rows.estimates(np.broadcast_arrays(rows, sizes)[0])

    def table(self) -> dict[int, float]:
        """Return the mean seconds by rows (the upper end of each power of two), of a model whose rows have one size."""
        return self._by_rows.table()


class _RowTable:
    """Running means of rows and seconds per power of two of rows."""

    def __init__(self) -> None:
        self._means: dict[int, tuple[float, float]] = {}  # by bucket: rows, seconds
        self._count: dict[int, int] = {}
        self._points: list[tuple[float, float]] = []  # the means in order; replaced as a whole, since threads read it

    def record(self, rows: int, seconds: float, *, warm_up: bool) -> None:
        """Add a measurement. The first real one replaces that of a warm-up, which is often slow."""
        bucket = bucket_of(rows)
        count = self._count[bucket] = self._count.get(bucket, 0) + (not warm_up)
        mean_rows, mean_s = self._means.get(bucket, (rows, seconds))
        if count > 1:
            seconds = min(seconds, OUTLIER * mean_s)
        weight = 1.0 if count <= 1 else max(_WEIGHT, 1 / count)
        self._means[bucket] = (mean_rows + weight * (rows - mean_rows), mean_s + weight * (seconds - mean_s))
        self._points = [mean for _, mean in sorted(self._means.items())]

    def estimate(self, rows: int) -> float:
        known = self._points
        for n, (at, seconds) in enumerate(known):
            if rows <= at:
                if n == 0:
                    return seconds
                before, before_s = known[n - 1]
                return before_s + (seconds - before_s) * (rows - before) / (at - before)
        return known[-1][1] * rows / known[-1][0] if known else 0.0

    def estimates(self, rows: np.ndarray) -> np.ndarray:
        known = self._points
        if not known:
            return np.zeros(rows.shape)
        at, seconds = np.array(known).T
        return np.interp(rows, at, seconds) * np.maximum(1.0, rows / at[-1])

    def table(self) -> dict[int, float]:
        return {1 << bucket: seconds for bucket, (_, seconds) in sorted(self._means.copy().items())}


class _SizeFit:
    """Least squares with forgetting. Errors count relative to the expected seconds, so that short forwards fit too."""

    def __init__(self) -> None:
        self._products = np.zeros((3, 3))
        self._sums = np.zeros(3)
        self._coefficients = np.zeros(3)
        self._forwards = 0

    def record(self, rows: int, size: int, seconds: float) -> None:
        features = np.array([1.0, rows * size, rows * size * size], float)  # float: integers of any size
        self._forwards += 1
        expected = float(features @ self._coefficients)
        if self._forwards <= FIRST_FORWARDS:
            expected = seconds
        scale = max(expected, seconds / OUTLIER, 1e-6)  # the further above what is expected, the less it counts
        features /= scale
        self._products = _KEEP * self._products + np.outer(features, features)
        self._sums = _KEEP * self._sums + features * (seconds / scale)
        self._coefficients = self._solve()

    def _solve(self) -> np.ndarray:
        """Return the coefficients of the best fit in which none is negative."""
        ridge = np.diag(_RIDGE * self._products.diagonal() + 1e-12)
        products, sums = self._products + ridge, self._sums + ridge @ self._coefficients
        used = [0, 1, 2]
        found = np.zeros(3)
        while used:
            values = np.linalg.solve(products[np.ix_(used, used)], sums[used])
            if values.min() >= 0:
                found[used] = values
                break
            used.pop(int(values.argmin()))
        return found

    def estimates(self, rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        fixed, linear, square = self._coefficients
        work = rows * sizes
        return fixed + work * (linear + square * sizes)


def bucket_of(rows: int) -> int:
    """Return the exponent of the smallest power of two that holds `rows`."""
    return max(0, rows - 1).bit_length()
