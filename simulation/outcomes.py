"""Outcomes of all requests, and the batches of the measured part of a run."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Literal

Kind = Literal["ok", "late", "rejected", "failed"]


class Outcomes:
    """Counts what happens between `start` and `end`. Times are virtual seconds."""

    def __init__(self, start: float, end: float) -> None:
        self.start = start
        self.end = end
        self.total_arrived = 0
        self.unfinished = 0  # requests without an outcome yet
        self.total: Counter[Kind] = Counter()
        self.in_time = 0  # responses in time that were sent between start and end
        self.latencies_s = array("d")  # of requests that arrived between start and end and got a response in time
        self.batches: Counter[int] = Counter()  # rows → batches that started between start and end
        self.closed: Counter[str] = Counter()
        self.device_busy_s = 0.0

    def arrived(self) -> None:
        self.total_arrived += 1
        self.unfinished += 1

    def add(self, kind: Kind, arrived_at: float, responded_at: float) -> None:
        self.total[kind] += 1
        self.unfinished -= 1
        if kind == "ok":
            self.in_time += self.start <= responded_at < self.end
            if self.start <= arrived_at < self.end:
                self.latencies_s.append(responded_at - arrived_at)

    def batch(self, rows: int, closed: str, started_at: float, seconds: float) -> None:
        if self.start <= started_at < self.end:
            self.batches[rows] += 1
            self.closed[closed] += 1
            self.device_busy_s += seconds

    @property
    def mean_batch(self) -> float:
        return sum(rows * count for rows, count in self.batches.items()) / max(1, self.batches.total())

    @property
    def goodput(self) -> float:
        """Responses in time per second."""
        return self.in_time / (self.end - self.start)

    def latency_ms(self, percent: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1000 if ordered else 0.0
