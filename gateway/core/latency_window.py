"""The outcomes and latencies of a gateway process's requests for one model: over the last seconds, the last minute, and
since it started."""

from __future__ import annotations

import collections
import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

K = TypeVar("K")

WINDOW_S = 10
MINUTE_S = 60
_STEPS = 8  # latency buckets per doubling: a percentile is right within 9 %


class Slot(msgspec.Struct):
    """One second: failures by outcome and code, and the latencies of answered requests in seconds."""

    second: int
    failed: collections.Counter[tuple[str, str]]
    answered: list[float]

    def summary(self) -> Summary:
        outcomes: collections.Counter[str] = collections.Counter()
        errors: collections.Counter[str] = collections.Counter()
        for (outcome, code), count in self.failed.items():
            outcomes[outcome] += count
            errors[code] += count
        if self.answered:
            outcomes["ok"] = len(self.answered)
        return Summary(dict(outcomes), dict(errors), _buckets(self.answered))


class Summary(msgspec.Struct):
    """What one or many gateways counted over some time. `errors`: by code. `buckets`: latency bucket → answered
    requests."""

    outcomes: dict[str, int] = {}
    errors: dict[str, int] = {}
    buckets: dict[int, int] = {}

    @property
    def answered(self) -> int:
        return self.outcomes.get("ok", 0)

    def percentile_ms(self, percent: float) -> float | None:
        """Return a percentile of the latency, or None without answered requests."""
        total = sum(self.buckets.values())
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= total * percent / 100:
                return round(2 ** ((bucket + 0.5) / _STEPS), 3)
        return None

    def percentile_at_most_ms(self, percent: float) -> float:
        """Return what a percentile of the latency is at most: the end of its bucket. Without answered requests 0."""
        middle = self.percentile_ms(percent)
        return middle * 2 ** (0.5 / _STEPS) if middle else 0.0

    def slower_than(self, limit_ms: float) -> int:
        """Return how many answered requests surely took longer: those of buckets that begin at the limit or later."""
        return sum(count for bucket, count in self.buckets.items() if 2 ** (bucket / _STEPS) >= limit_ms)

    def since(self, earlier: Summary) -> Summary:
        """Return what was counted since `earlier`, which is part of this."""
        if self is earlier:
            return Summary()
        return Summary(
            _less(self.outcomes, earlier.outcomes),
            _less(self.errors, earlier.errors),
            _less(self.buckets, earlier.buckets),
        )


class LatencyWindow:
    """The outcomes and latencies of the last seconds, in slots of one second, and of all seconds before the present one
    together: `total`, which is never changed, but replaced. Used in one event loop."""

    def __init__(self) -> None:
        self._slot = Slot(0, collections.Counter(), [])  # of the present second
        self._past: deque[tuple[int, Summary]] = deque()  # of past seconds
        self.total = Summary()
        self._totals = deque([(0, self.total)])  # at the start, then every WINDOW_S over the last minute

    def answered(self, seconds: float) -> None:
        self._now().answered.append(seconds)

    def failed(self, outcome: str, code: str) -> None:
        self._now().failed[outcome, code] += 1

    def summary(self) -> Summary:
        """Return the last WINDOW_S full seconds."""
        now = self._now().second
        return merge(summary for second, summary in self._past if now - WINDOW_S <= second < now)

    def minute(self) -> Summary:
        """Return the last MINUTE_S full seconds, and up to WINDOW_S before them."""
        now, totals = self._now().second, self._totals
        if now - totals[-1][0] >= WINDOW_S:
            totals.append((now, self.total))
        while len(totals) > 1 and totals[1][0] <= now - MINUTE_S:
            totals.popleft()
        return self.total.since(totals[0][1])

    def _now(self) -> Slot:
        second, slot = int(time.monotonic()), self._slot
        if slot.second == second:
            return slot
        summary = slot.summary()
        if summary.outcomes:
            self.total = merge((self.total, summary))
        self._past.append((slot.second, summary))
        while self._past and self._past[0][0] < second - WINDOW_S:
            self._past.popleft()
        self._slot = slot = Slot(second, collections.Counter(), [])
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
    outcomes: collections.Counter[str] = collections.Counter()
    errors: collections.Counter[str] = collections.Counter()
    buckets: collections.Counter[int] = collections.Counter()
    for summary in summaries:
        outcomes.update(summary.outcomes)
        errors.update(summary.errors)
        buckets.update(summary.buckets)
    return Summary(dict(outcomes), dict(errors), dict(buckets))


def _less(later: dict[K, int], earlier: dict[K, int]) -> dict[K, int]:
    return {key: count - earlier.get(key, 0) for key, count in later.items() if count > earlier.get(key, 0)}


def pack(summary: Summary) -> bytes:
    return msgspec.json.encode(summary)


def unpack(text: Any) -> Summary:
    return msgspec.json.decode(text, type=Summary)
