"""Latency histograms with buckets one percent wide. They stay small over hours of load and can be added up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

STEP = 0.01  # of the natural logarithm, so percentiles are accurate within half a percent
MIN_MS = 1e-3


def bucket(ms: float) -> int:
    return math.floor(math.log(max(ms, MIN_MS)) / STEP)


def merged(histograms: Iterable[Mapping[Any, int]]) -> Counter[int]:
    """Add up histograms (bucket → count). Buckets may be text, as they are in JSON."""
    total: Counter[int] = Counter()
    for histogram in histograms:
        for index, count in histogram.items():
            total[int(index)] += count
    return total


def percentile_ms(histogram: Mapping[int, int], percent: float) -> float | None:
    """Return the latency that `percent` (0 to 100) of the values do not exceed; None if there are none."""
    remaining = math.ceil(sum(histogram.values()) * percent / 100)
    for index in sorted(histogram):
        remaining -= histogram[index]
        if remaining <= 0:
            return round(math.exp((index + 0.5) * STEP), 3)
    return None
