"""What this worker can do in a second, as gateways need it to say who would be late: measured from the moment a batch
could start to the moment the device was free again, so that waiting for slow decodes counts, and having no work
doesn't."""

from __future__ import annotations

from worker.forward_times import ForwardTimes

OUTLIER = 3.0  # times what was known


class ServiceRate:
    """Written by the claimer, read by the report; both in the event loop."""

    def __init__(self, forwards: ForwardTimes, max_rows: int) -> None:
        self._forwards = forwards
        self.max_rows = max_rows
        self._services = ForwardTimes()

    def record(self, rows: int, seconds: float) -> None:
        """Take in a batch. One of which nothing reached the device says nothing; one that took far longer than those
        before (this process was paused, an input was slow to decode) counts as slow, and not for all that it took."""
        if not rows:
            return
        if known_s := self._services.estimate(rows) or self._forwards.estimate(rows):
            seconds = min(seconds, OUTLIER * known_s)
        self._services.record(rows, seconds)

    def rows_per_s(self) -> float:
        """At the size that serves most, as far as is known; 0 while nothing is."""
        table = {**self._forwards.table(), **self._services.table()}  # warm-up's, until a batch of that size was served
        sizes = ((min(rows, self.max_rows), seconds) for rows, seconds in table.items())
        return max((rows / max(seconds, 1e-6) for rows, seconds in sizes), default=0.0)

    def batch_full_s(self) -> float:
        """How long a full batch takes at that rate: not what the last full one took, which may be long ago."""
        rate = self.rows_per_s()
        return self.max_rows / rate if rate else 0.0
