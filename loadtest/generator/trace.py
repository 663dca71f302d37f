"""Record every request of a load, for the rows of `make bench` (up to 15,000 requests/s)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from loadtest.generator.connection import Connection

Line = tuple[float, float, float, int]
"""(intended start, sent, response, status), in seconds on the loop's clock"""

LAST_RESPONSES_S = 10.0  # how long to wait for the last responses


@dataclass
class Trace:
    """Recorder of a loop: a line for each ended request. `starts` has the intended starts of an open loop."""

    starts: list[float] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def started(self, start: float, now: float) -> None:
        pass

    def ended(self, connection: Connection, start: float, now: float) -> float:
        self.lines.append((start, connection.sent_at, now, connection.status))
        return 0.0

    def failed(self, error: str) -> None:
        pass

    def since(self, start_s: float) -> Trace:
        """Return the requests with an intended start of `start_s` or later."""
        starts = [start for start in self.starts if start >= start_s]
        return Trace(starts, [line for line in self.lines if line[0] >= start_s])

    def statuses(self) -> dict[str, int]:
        """Count requests by status: 0 is a broken connection, `none` had no response. The counts add up to `starts`."""
        counted = Counter(str(status) for *_, status in self.lines)
        if missing := len(self.starts) - len(self.lines):
            counted["none"] = missing
        return dict(sorted(counted.items()))

    def latencies(self, *statuses: int) -> list[float]:
        """Return the seconds from intended start to response, ascending; of all statuses if none is given."""
        return sorted(end - start for start, _, end, status in self.lines if status in statuses or not statuses)

    def lateness(self) -> list[float]:
        """Return the seconds from intended start to sending, ascending. The generator adds them to the latency."""
        return sorted(max(0.0, sent - start) for start, sent, _, _ in self.lines)


def percentile(ascending: list[float], share: float) -> float:
    """Return the value that `share` (0 to 1) of the values do not exceed; infinite if there are none."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else float("inf")
