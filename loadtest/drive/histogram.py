"""Latencies in buckets a hundredth wide: hours of them take little room, and any may be added up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

STEP = 0.01  # of the natural logarithm: a percentile is right within half a percent
LEAST_MS = 1e-3


def bucket(ms: float) -> int:
    return math.floor(math.log(max(ms, LEAST_MS)) / STEP)


def middle_ms(index: int) -> float:
    return math.exp((index + 0.5) * STEP)


def merged(histograms: Iterable[Mapping[str, int]]) -> Counter[int]:
    """Add up histograms as JSON holds them: bucket (as text) → count."""
    total: Counter[int] = Counter()
    for each in histograms:
        for index, count in each.items():
            total[int(index)] += count
    return total


def percentile_ms(histogram: Mapping[int, int], percent: float) -> float | None:
    """The latency that `percent` (0 to 100) of those counted don't exceed; None of none."""
    left = math.ceil(sum(histogram.values()) * percent / 100)
    for index in sorted(histogram):
        left -= histogram[index]
        if left <= 0:
            return round(middle_ms(index), 3)
    return None
