"""The last seconds: outcomes and latencies in one-second slots, small enough to be reported every second and
added up over any number of gateways."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from typing import Any

import msgspec

WINDOW_S = 10
_STEPS = 8  # latency buckets per doubling: a percentile is right within 9 %


class Slot(msgspec.Struct):
    """One second: how many failed how, and how long each that was answered took, in seconds."""

    second: int
    failed: defaultdict[str, int]
    answered: list[float]

    def summary(self) -> Summary:
        outcomes = dict(self.failed)
        if self.answered:
            outcomes["ok"] = len(self.answered)
        return Summary(outcomes, _buckets(self.answered))


class Summary(msgspec.Struct):
    """What one or many gateways saw in the last WINDOW_S seconds. `buckets`: latency bucket → answered requests."""

    outcomes: dict[str, int] = {}
    buckets: dict[int, int] = {}

    @property
    def answered(self) -> int:
        return self.outcomes.get("ok", 0)

    def percentile_ms(self, percent: float) -> float | None:
        """The latency that `percent` of the answered requests stayed below, or None without any."""
        total = sum(self.buckets.values())
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= total * percent / 100:
                return round(2 ** ((bucket + 0.5) / _STEPS), 3)
        return None


class LatencyWindow:
    """Filled from one event loop."""

    def __init__(self) -> None:
        self._slot = Slot(0, defaultdict(int), [])  # of the second that is
        self._past: deque[tuple[int, Summary]] = deque()  # of those that were, by second

    def answered(self, seconds: float) -> None:
        self._now().answered.append(seconds)

    def failed(self, outcome: str) -> None:
        self._now().failed[outcome] += 1

    def summary(self) -> Summary:
        """The last WINDOW_S full seconds."""
        now = self._now().second
        return merge(summary for second, summary in self._past if now - WINDOW_S <= second < now)

    def _now(self) -> Slot:
        second, slot = int(time.monotonic()), self._slot
        if slot.second == second:
            return slot
        self._past.append((slot.second, slot.summary()))
        while self._past and self._past[0][0] < second - WINDOW_S:
            self._past.popleft()
        self._slot = slot = Slot(second, defaultdict(int), [])
        return slot


def _buckets(seconds: list[float]) -> dict[int, int]:
    """Count values by bucket: sorted once, then a step per bucket instead of a logarithm per value."""
    values = sorted(max(value * 1000, 1e-3) for value in seconds)
    counts: dict[int, int] = {}
    begin = 0
    while begin < len(values):
        bucket = math.floor(math.log2(values[begin]) * _STEPS)
        end = bisect_left(values, 2 ** ((bucket + 1) / _STEPS), begin + 1)
        counts[bucket] = counts.get(bucket, 0) + end - begin
        begin = end
    return counts


def merge(summaries: Iterable[Summary]) -> Summary:
    outcomes: Counter[str] = Counter()
    buckets: Counter[int] = Counter()
    for summary in summaries:
        outcomes.update(summary.outcomes)
        buckets.update(summary.buckets)
    return Summary(dict(outcomes), dict(buckets))


def pack(summary: Summary) -> bytes:
    return msgspec.json.encode(summary)


def unpack(text: Any) -> Summary:
    return msgspec.json.decode(text, type=Summary)
