"""How long a batch of so many rows takes, learned from warm-up and from every batch since."""

from __future__ import annotations

_WEIGHT = 0.2  # of the newest measurement


class LatencyEstimator:
    """Running means per power of two of rows. Written by the device thread, read by the claimer."""

    def __init__(self) -> None:
        self._mean_s: dict[int, float] = {}
        self._count: dict[int, int] = {}

    def record(self, rows: int, seconds: float, *, warm_up: bool = False) -> None:
        """Take in a measurement. One of a warm-up, which is often slow, holds only until the first real one."""
        bucket = _bucket(rows)
        count = self._count[bucket] = self._count.get(bucket, 0) + (not warm_up)
        mean = self._mean_s.get(bucket, seconds)
        weight = 1.0 if count <= 1 else max(_WEIGHT, 1 / count)
        self._mean_s[bucket] = mean + weight * (seconds - mean)

    def estimate(self, rows: int) -> float:
        """Seconds for a batch of `rows`; 0 while nothing is known. From the nearest bucket where there's none."""
        known = self._mean_s  # copied where it is gone through: the device thread may add to it
        if not known:
            return 0.0
        bucket = _bucket(rows)
        if bucket in known:
            return known[bucket]
        nearest = min(list(known), key=lambda candidate: (abs(candidate - bucket), -candidate))
        return known[nearest]

    def table(self) -> dict[int, float]:
        """Rows (upper end of the bucket) → mean seconds."""
        return {1 << bucket: mean for bucket, mean in sorted(self._mean_s.items())}


def _bucket(rows: int) -> int:
    return max(0, rows - 1).bit_length()
