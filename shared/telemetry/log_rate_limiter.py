"""Limits the number of log lines per kind and second."""

from __future__ import annotations

LINES_PER_S = 10


class LogRateLimiter:
    """Counts lines by kind. Its owner calls `take_suppressed` once per second. Kinds are few (error codes)."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def allows(self, kind: str) -> bool:
        count = self._counts.get(kind, 0) + 1
        self._counts[kind] = count
        return count <= LINES_PER_S

    def take_suppressed(self) -> dict[str, int]:
        """Return the number of suppressed lines by kind, and reset all counts."""
        counts, self._counts = self._counts, {}
        return {kind: count - LINES_PER_S for kind, count in counts.items() if count > LINES_PER_S}
