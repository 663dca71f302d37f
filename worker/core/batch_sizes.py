"""The batch sizes that are prepared before requests come: warmed up, timed, recorded."""

from __future__ import annotations


def sizes(max_rows: int) -> list[int]:
    """1, 2, 4, … up to and with `max_rows`."""
    powers = []
    size = 1
    while size < max_rows:
        powers.append(size)
        size *= 2
    return [*powers, max_rows]
