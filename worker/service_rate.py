"""What this worker can do in a second, as gateways need it to say who would be late: measured from the moment a batch
could start to the moment the device was free again, so that waiting for slow decodes counts, and having no work
doesn't."""

from __future__ import annotations

from worker.forward_times import ForwardTimes


class ServiceRate:
    """Written by the claimer, read by the report; both in the event loop."""

    def __init__(self, forwards: ForwardTimes, max_rows: int) -> None:
        self._forwards = forwards
        self._max_rows = max_rows
        self._services = ForwardTimes()

    def record(self, rows: int, seconds: float) -> None:
        """Take in a batch. One of which nothing reached the device says nothing."""
        if rows:
            self._services.record(rows, seconds)

    def rows_per_s(self) -> float:
        """At the size that serves most, as far as is known; 0 while nothing is."""
        sizes = ((min(rows, self._max_rows), seconds) for rows, seconds in self._table().items())
        return max((rows / max(seconds, 1e-6) for rows, seconds in sizes), default=0.0)

    def batch_full_s(self) -> float:
        """How long a batch of the largest size known takes."""
        table = self._table()
        return table[max(table)] if table else 0.0

    def _table(self) -> dict[int, float]:
        """Rows → seconds: the forward times of warm-up until a batch of that size has been served."""
        return {**self._forwards.table(), **self._services.table()}
