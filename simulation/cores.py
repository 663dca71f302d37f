"""The cores of one machine, shared by gateway, broker, worker and clients."""

from __future__ import annotations

import heapq


class Cores:
    """Assigns work to the core that is free first. 0 cores means one per process: work never waits for a core."""

    def __init__(self, count: int = 0) -> None:
        self._free_at = [0.0] * count

    def run(self, ready_at: float, cost_s: float) -> float:
        """Return when work that is ready at `ready_at` is done."""
        if not self._free_at:
            return ready_at + cost_s
        done_at = max(ready_at, self._free_at[0]) + cost_s
        heapq.heapreplace(self._free_at, done_at)
        return done_at
