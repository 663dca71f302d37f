"""Whose turn it is on a shared device: start-time fair queueing (Goyal, Vin and Cheng, 1996).

Each worker has a virtual time: the seconds for which it used the device, divided by its weight. Of those that want the
device the one with the least goes next. One that returns after a pause starts at the device's virtual time, which is
that of the latest batch at its start: a pause earns no credit. How long a batch takes need not be known before.

Pure: it reads and writes a table of floats, one row per worker, which device_file.py shares between processes. A worker
writes its own row, and the first row, the device's, during its turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

ROWS = 64  # one for the device and 63 workers
FIELDS = 8
# of a worker
MODEL, VTIME, WANTS, LEFT_AT, WEIGHT, BATCH_S, USED_S = range(7)
# of the device (row 0): its virtual time, the row of the last turn's worker, turns so far, the turn's last progress
VIRTUAL, HOLDER, TURN, PROGRESS_AT = range(4)

# A worker whose clients answer each reply with the next request wants the device again a moment later. One with longer
# batches leaves the device idle that long: for this share of its own batch, so little is lost if nobody returns.
RETURN_SHARE = 0.05
MAX_RETURN_S = 0.02
# A turn without progress for PAUSED_S and so many batches more is taken to be one of a paused process.
PAUSED_S = 2.0
PAUSED_BATCHES = 4
AVERAGE_S = 10.0  # over which the others' use of the device is averaged
_WEIGHT = 0.2  # of the newest batch in a running mean


class Table(Protocol):
    """ROWS times FIELDS floats, all 0 at first."""

    def __getitem__(self, at: int, /) -> float: ...
    def __setitem__(self, at: int, value: float, /) -> None: ...


class FairQueue:
    """One worker's view of the table. Times are monotonic, which all processes of a host have in common."""

    def __init__(self, table: Table, row: int, model: float, weight: float = 1.0) -> None:
        self._table = table
        self._row = row
        self._mine = row * FIELDS
        self._weight = weight
        self.others: Sequence[int] = ()  # rows of the workers that it takes turns with
        self._used: dict[int, tuple[float, float]] = {}  # by row: seconds used so far, and the mean share of the time
        self._used_at = 0.0
        clear(table, row)
        table[self._mine + VTIME] = table[VIRTUAL]
        table[self._mine + WEIGHT] = weight
        table[self._mine + MODEL] = model  # last: the others see the row from now on

    # --- waiting

    def arrive(self) -> None:
        """Want the device after a pause, however short."""
        self._table[self._mine + VTIME] = max(self._table[self._mine + VTIME], self._table[VIRTUAL])
        self.keep_waiting()

    def keep_waiting(self) -> None:
        """Say that this worker still waits. It may have been passed over because it seemed paused."""
        self._table[self._mine + WANTS] = 1.0

    def stop_waiting(self) -> None:
        self._table[self._mine + WANTS] = 0.0

    def ahead(self, now: float) -> list[int]:
        """Return the rows of the workers that go first: they want the device, or probably will in a moment."""
        table, vtime = self._table, self._table[self._mine + VTIME]
        back_by = now - min(MAX_RETURN_S, RETURN_SHARE * self.batch_s)
        return [
            row
            for row in self.others
            if table[row * FIELDS + VTIME] < vtime
            and (table[row * FIELDS + WANTS] or table[row * FIELDS + LEFT_AT] > back_by)
        ]

    def pass_over(self, rows: Iterable[int]) -> None:
        """Go before workers that don't take their turn. Those that aren't paused say so again."""
        for row in rows:
            self._table[row * FIELDS + WANTS] = 0.0

    def holder_paused(self, now: float, waiting_since: float) -> bool:
        """Return whether the worker whose turn it is has made no progress for long."""
        holder_batch_s = self._table[int(self._table[HOLDER]) * FIELDS + BATCH_S]
        progress_at = max(self._table[PROGRESS_AT], waiting_since)
        return now - progress_at > PAUSED_S + PAUSED_BATCHES * holder_batch_s

    @property
    def turn(self) -> float:
        """The number of the device's present or last turn."""
        return self._table[TURN]

    # --- during a turn

    def start(self, now: float) -> None:
        """Begin a turn."""
        self.stop_waiting()
        self._table[HOLDER] = self._row
        self._table[TURN] += 1
        self.start_batch(now)

    def start_batch(self, now: float) -> None:
        self._table[VIRTUAL] = max(self._table[VIRTUAL], self._table[self._mine + VTIME])
        self._table[PROGRESS_AT] = now

    def charge(self, seconds: float) -> None:
        """Add seconds of this turn. Those of a pause don't count: the others went on."""
        seconds = min(seconds, PAUSED_S + PAUSED_BATCHES * self.batch_s)
        self._table[self._mine + VTIME] += seconds / self._weight
        self._table[self._mine + USED_S] += seconds

    def batch_done(self, seconds: float, now: float) -> None:
        """Record how long a batch took."""
        mean = self.batch_s
        seconds = min(seconds, PAUSED_S + PAUSED_BATCHES * mean)
        self._table[self._mine + BATCH_S] = mean + _WEIGHT * (seconds - mean) if mean else seconds
        self._table[PROGRESS_AT] = now

    def must_yield(self) -> bool:
        """Return whether a worker waits whose turn it is before this one's next batch."""
        table, vtime = self._table, self._table[self._mine + VTIME]
        return any(table[row * FIELDS + WANTS] and table[row * FIELDS + VTIME] < vtime for row in self.others)

    def leave(self, now: float) -> None:
        """End a turn."""
        self._table[self._mine + LEFT_AT] = now

    # --- what is left for this worker

    @property
    def batch_s(self) -> float:
        """Mean seconds of a batch; 0 before the first."""
        return self._table[self._mine + BATCH_S]

    def available(self, now: float) -> float:
        """Return the share of the device's time that this worker gets if it wants all: what the others leave, but at
        least its weight's part among those that used the device lately."""
        elapsed, self._used_at = now - self._used_at, now
        keep = max(0.0, 1 - elapsed / AVERAGE_S)
        used: dict[int, tuple[float, float]] = {}
        for row in self.others:
            total = self._table[row * FIELDS + USED_S]
            before, share = self._used.get(row, (total, 0.0))
            used[row] = total, keep * share + (1 - keep) * max(0.0, total - before) / elapsed
        self._used = used
        active = sum(self._table[row * FIELDS + WEIGHT] for row, (_, share) in used.items() if share > 0.01)
        return max(self._weight / (self._weight + active), 1 - sum(share for _, share in used.values()))


def clear(table: Table, row: int) -> None:
    """Forget the worker of this row."""
    for field in range(FIELDS):
        table[row * FIELDS + field] = 0.0
