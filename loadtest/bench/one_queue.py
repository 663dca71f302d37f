"""Reference for consolidation: one in-process queue that feeds all devices and costs no time itself.

It follows the product's rule: a batch closes when it is full or when the window of its oldest arrival ends. One batch
fills at a time, for a free device. It gets the same arrivals as the measured system.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence


def mean_batch(
    arrivals: Sequence[float], devices: int, base_s: float, row_s: float, max_rows: int, window_s: float
) -> float:
    """Return the mean number of rows per batch."""
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
