"""How much fits the device's memory, learned from out-of-memory errors: rows, or rows times the size to which they are
padded.

The limit is lowered when a batch does not fit. Later it is probed upward again, since another process may have held the
memory for a while. A failed probe costs the halving of one batch, and the next probe waits twice as long.
"""

from __future__ import annotations

PROBE_AFTER_BATCHES = 200  # batches at the limit before twice as many rows are tried
MAX_PROBE_AFTER_BATCHES = 64 * PROBE_AFTER_BATCHES  # hours at the usual rates; a halved batch costs little by then


class MemoryBatchLimit:
    """Changed by the device's two threads, never by both at once. Any thread may read `rows`.

    `full`: share of the limit from which a batch counts as one at the limit. Rows of several sizes seldom add up to it.
    """

    def __init__(self, max_rows: int, *, full: float = 1.0) -> None:
        self._max_rows = max_rows
        self._full = full
        self.rows = max_rows
        self.exceeded = False  # whether any batch did not fit; until then `fitted` need not be called
        self._full_batches = 0  # at the present limit
        self._probe_after = PROBE_AFTER_BATCHES
        self._proven = 0  # the limit before the present probe; 0 without one

    def did_not_fit(self, rows: int) -> None:
        """Lower the limit: a batch of `rows` did not fit."""
        self.exceeded = True
        if rows > self._proven > 0:
            self._probe_after = min(2 * self._probe_after, MAX_PROBE_AFTER_BATCHES)
            self.rows = self._proven
        else:
            self.rows = max(1, min(self.rows, rows // 2))
        self._proven = self._full_batches = 0

    def fitted(self, rows: int) -> bool:
        """Count a batch of `rows` that ran. Returns True if a probe begins: the next batches may be larger."""
        if rows > self._proven > 0:
            self._proven = 0
            self._probe_after = PROBE_AFTER_BATCHES
        if self.rows >= self._max_rows or rows < self._full * self.rows:
            return False
        self._full_batches += 1
        if self._full_batches < self._probe_after:
            return False
        self._full_batches = 0
        self._proven, self.rows = self.rows, min(self._max_rows, 2 * self.rows)
        return True

    def restore(self, rows: int) -> None:
        """Set the limit back: one row's size exceeded the memory, not the number of rows."""
        self.rows = rows
        self._proven = self._full_batches = 0
