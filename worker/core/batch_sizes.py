"""The batch sizes that are warmed up, timed and recorded as CUDA graphs before the worker is ready."""

from __future__ import annotations


def sizes(max_rows: int) -> list[int]:
    """Return 1, 2, 4, … up to and including `max_rows`."""
    powers = []
    size = 1
    while size < max_rows:
        powers.append(size)
        size *= 2
    return [*powers, max_rows]
