"""How many rows fit the device's memory, as far as is known.

Lowered when a batch didn't fit, and probed upward again, since the memory may have been someone else's for a while.
A probe that fails costs the halving of that one batch, and the next one waits twice as long.
"""

from __future__ import annotations

PROBE_AFTER_BATCHES = 200  # batches at the ceiling before twice as many rows are tried
MAX_PROBE_AFTER_BATCHES = 64 * PROBE_AFTER_BATCHES  # hours at the usual speeds; a halved batch is cheap by then


class MemoryBatchLimit:
    """Changed by the device's two threads, which never do so at once; `rows` may be read by any."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self.rows = max_rows
        self._full_batches = 0  # at this ceiling
        self._probe_after = PROBE_AFTER_BATCHES
        self._proven = 0  # the ceiling before the probe that is going on; 0 when none is

    def did_not_fit(self, rows: int) -> None:
        """So many rows were too many."""
        if rows > self._proven > 0:
            self._probe_after = min(2 * self._probe_after, MAX_PROBE_AFTER_BATCHES)
            self.rows = self._proven
        else:
            self.rows = max(1, min(self.rows, rows // 2))
        self._proven = self._full_batches = 0

    def fitted(self, rows: int) -> bool:
        """So many rows ran. True if that makes the next batches larger: a probe begins."""
        if rows > self._proven > 0:
            self._proven = 0
            self._probe_after = PROBE_AFTER_BATCHES
        if self.rows >= self._max_rows or rows < self.rows:
            return False
        self._full_batches += 1
        if self._full_batches < self._probe_after:
            return False
        self._full_batches = 0
        self._proven, self.rows = self.rows, min(self._max_rows, 2 * self.rows)
        return True

    def restore(self, rows: int) -> None:
        """Back to what it was: it was one row's size that didn't fit, and says nothing of their number."""
        self.rows = rows
        self._proven = self._full_batches = 0
