"""Where to cut waiting rows into batches. Pure: numbers in, numbers out.

Among the ways to cut whose seconds are at most SLACK times the least possible, the one is chosen after which rows are
answered earliest on average. So a model whose cost is linear in rows runs in small batches, and nobody waits for
nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Costs = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(rows, padded size) of many batches → seconds of each; the arrays are broadcast."""

SLACK = 1.03
_ALL_UP_TO = 32  # larger batches are tried in steps of a sixteenth


def equal_rows(count: int, costs: Costs, max_rows: int, size: int = 1) -> int:
    """Return how many of `count` rows of one size the next batch takes."""
    rows = _candidates(min(count, max_rows))
    full, rest, sizes = count // rows, count % rows, np.full_like(rows, size)
    total = full * costs(rows, sizes) + np.where(rest > 0, costs(np.maximum(rest, 1), sizes), 0.0)
    within = rows[total <= SLACK * total.min()]
    return int(within.min())


def cut_batches(sizes: np.ndarray, costs: Costs, max_rows: int, max_tokens: float) -> list[int]:
    """Return the rows of each batch, in the order of `sizes`, which ascend.

    A batch is padded to its largest row, so short rows beside a long one cost as much as it does; but each batch costs
    a launch. Dynamic programming finds where to cut. (The idea is that of TurboTransformers, PPoPP 2021, there with a
    fixed table of costs.) No batch has more than `max_rows` rows, or more than `max_tokens` (rows times largest size)
    unless it is of one row.
    """
    count = len(sizes)
    rows = _candidates(min(count, max_rows))
    if count % max_rows not in (0, *rows):  # what full batches leave
        rows = np.sort(np.append(rows, count % max_rows))
    ends = np.arange(count)[:, None] + rows
    largest = sizes[np.minimum(ends, count) - 1]
    allowed = (ends <= count) & ((rows * largest <= max_tokens) | (rows == 1))
    seconds = np.where(allowed, costs(rows, largest), np.inf)
    # From row n on: the least total; the total and the sum of completion times of what is chosen; its first batch.
    room = count + int(rows[-1])
    least, total, completion = np.zeros(room), np.zeros(room), np.zeros(room)
    first = [0] * count
    for n in range(count - 1, -1, -1):
        after = n + rows
        least[n] = (seconds[n] + least[after]).min()
        totals = seconds[n] + total[after]
        completions = np.where(totals <= SLACK * least[n], (count - n) * seconds[n] + completion[after], np.inf)
        best = int(completions.argmin())
        first[n], total[n], completion[n] = int(rows[best]), totals[best], completions[best]
    batches, n = [], 0
    while n < count:
        batches.append(first[n])
        n += first[n]
    return batches


def _candidates(max_rows: int) -> np.ndarray:
    """Return the numbers of rows that a batch may have: all small ones, and steps up to `max_rows`."""
    rows = list(range(1, min(max_rows, _ALL_UP_TO) + 1))
    while rows[-1] < max_rows:
        rows.append(min(max_rows, rows[-1] + rows[-1] // 16))
    return np.array(rows)
