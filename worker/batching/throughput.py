"""What this worker can do in a second, as gateways need it to say who would be late: measured from the moment a batch
could start to the moment the device was free again, so that waiting for slow decodes counts, and having no work
doesn't."""

from __future__ import annotations

from smartbatch.worker.execution.latency import LatencyEstimator

OUTLIER = 3.0  # times what was known
_WEIGHT = 0.2  # of the newest batch


class _Pace:
    """Running means of batches: their rows, and the seconds that they took."""

    def __init__(self) -> None:
        self._rows = self._seconds = 0.0
        self._count = 0

    def record(self, rows: int, seconds: float) -> None:
        self._count += 1
        weight = max(_WEIGHT, 1 / self._count)
        self._rows += weight * (rows - self._rows)
        self._seconds += weight * (seconds - self._seconds)

    @property
    def rows_per_s(self) -> float:
        return self._rows / max(self._seconds, 1e-6)


class ThroughputEstimator:
    """Written by the claimer, read by the report; both in the event loop.

    While a backlog fills the batches, what they serve is the answer. Without one it is what could be served at best, by
    all that was measured of each size: never less, or a worker that was slow once would be sent nothing to show that it
    isn't any more. But that may be long ago, and of a machine that had nothing else to do.
    """

    def __init__(self, forwards: LatencyEstimator, max_rows: int) -> None:
        self._forwards = forwards
        self.max_rows = max_rows
        self._by_size: dict[int, _Pace] = {}  # power of two of rows →
        self._backlog: _Pace | None = None

    def record(self, rows: int, seconds: float, *, backlog: bool) -> None:
        """Take in a batch; `backlog`: it was closed because it was full, so others waited behind it.

        One of which nothing reached the device says nothing; one that took far longer than those before (this process
        was paused, an input was slow to decode) counts as slow, and not for all that it took.
        """
        if not rows:
            return
        size = _size(rows)
        pace = self._by_size.get(size)
        known_s = rows / pace.rows_per_s if pace else self._forwards.estimate(rows)
        if known_s:
            seconds = min(seconds, OUTLIER * known_s)
        self._by_size.setdefault(size, _Pace()).record(rows, seconds)
        if not backlog:
            self._backlog = None
            return
        self._backlog = self._backlog or _Pace()
        self._backlog.record(rows, seconds)

    def rows_per_s(self) -> float:
        """0 while nothing is known."""
        if self._backlog:
            return self._backlog.rows_per_s
        largest = _size(self.max_rows)  # it may have been lowered since
        measured = {1 << size: pace.rows_per_s for size, pace in self._by_size.items() if size <= largest}
        warm_up = ((rows, seconds) for rows, seconds in self._forwards.table().items() if rows not in measured)
        bare = (min(rows, self.max_rows) / max(seconds, 1e-6) for rows, seconds in warm_up)
        return max((*measured.values(), *bare), default=0.0)

    def batch_full_s(self) -> float:
        """How long a full batch takes at that rate: not what the last full one took, which may be long ago."""
        rate = self.rows_per_s()
        return self.max_rows / rate if rate else 0.0


def _size(rows: int) -> int:
    """Its power of two."""
    return max(0, rows - 1).bit_length()
