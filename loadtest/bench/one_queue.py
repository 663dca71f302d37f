"""Reference for consolidation: one in-process queue that feeds all devices, at no cost of its own.

The same rule as the product's: a batch closes when it is full, or when the window since its oldest arrival has ended;
one batch fills at a time, and only for a free device. It gets the arrivals that the system is offered.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence


def mean_batch(
    arrivals: Sequence[float], devices: int, base_s: float, row_s: float, max_rows: int, window_s: float
) -> float:
    """Mean rows per batch."""
    free_at = [0.0] * devices
    first, batches = 0, 0
    while first < len(arrivals):
        starts = max(heapq.heappop(free_at), arrivals[first])
        last = first + max_rows - 1
        full_at = arrivals[last] if last < len(arrivals) else float("inf")
        closes = max(starts, min(full_at, arrivals[first] + window_s))
        rows = min(max_rows, bisect.bisect_right(arrivals, closes) - first)
        heapq.heappush(free_at, closes + base_s + rows * row_s)
        first += rows
        batches += 1
    return len(arrivals) / batches if batches else 0.0
