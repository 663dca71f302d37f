"""Latency histograms with buckets one per cent wide: small on disk for hours of load, and they may be added up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

STEP = 0.01  # of the natural logarithm: percentiles are accurate within half a per cent
MIN_MS = 1e-3


def bucket(ms: float) -> int:
    return math.floor(math.log(max(ms, MIN_MS)) / STEP)


def merged(histograms: Iterable[Mapping[Any, int]]) -> Counter[int]:
    """Add up histograms, bucket → count. Buckets may be text, as JSON has them."""
    total: Counter[int] = Counter()
    for histogram in histograms:
        for index, count in histogram.items():
            total[int(index)] += count
    return total


def percentile_ms(histogram: Mapping[int, int], percent: float) -> float | None:
    """The latency that `percent` (0 to 100) of the values do not exceed; None if there are none."""
    left = math.ceil(sum(histogram.values()) * percent / 100)
    for index in sorted(histogram):
        left -= histogram[index]
        if left <= 0:
            return round(math.exp((index + 0.5) * STEP), 3)
    return None
