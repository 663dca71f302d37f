"""What the generator counts, a second at a time."""

from __future__ import annotations

from collections import Counter
from typing import Any

from loadtest.drive.histogram import bucket


class Tally:
    """`take` hands over what was counted since it was last called."""

    def __init__(self) -> None:
        self._new()

    def _new(self) -> None:
        self.sent = 0
        self.refused = 0
        self.checked = 0
        self.wrong = 0
        self.errors: Counter[str] = Counter()
        self.latency: Counter[int] = Counter()
        self.late: Counter[int] = Counter()

    def answered(self, seconds: float) -> None:
        self.latency[bucket(seconds * 1000)] += 1

    def was_late(self, seconds: float) -> None:
        self.late[bucket(seconds * 1000)] += 1

    def take(self) -> dict[str, Any]:
        """`ok` + `refused` + all `errors` is what was answered; latencies are those of `ok`.

        `late`: by how much the generator missed the moments of an open loop's schedule.
        """
        counted = {
            "sent": self.sent,
            "ok": self.latency.total(),
            "refused": self.refused,
            "errors": dict(self.errors),
            "checked": self.checked,
            "wrong": self.wrong,
            "latency": _as_json(self.latency),
            "late": _as_json(self.late),
        }
        self._new()
        return counted


def _as_json(histogram: Counter[int]) -> dict[str, int]:
    return {str(index): count for index, count in sorted(histogram.items())}
