"""A bound on log lines: so many of each kind a second, and how many were left out."""

from __future__ import annotations

LINES_PER_S = 10


class LogRateLimiter:
    """Counts by kind. x. Kinds are few: they are codes."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def allows(self, kind: str) -> bool:
        count = self._counts.get(kind, 0) + 1
        self._counts[kind] = count
        return count <= LINES_PER_S

    def take_suppressed(self) -> dict[str, int]:
        """Return how many of each kind had no line since this was called last."""
        counts, self._counts = self._counts, {}
        return {kind: count - LINES_PER_S for kind, count in counts.items() if count > LINES_PER_S}
