"""The last seconds: outcomes and latencies in one-second slots, small enough to be reported every second and
added up over any number of gateways."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

WINDOW_S = 10
_STEPS = 8  # latency buckets per doubling: a percentile is right within 9 %


class Slot(msgspec.Struct):
    second: int
    outcomes: defaultdict[str, int]
    buckets: defaultdict[int, int]


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


class Recent:
    """Filled from one event loop."""

    def __init__(self) -> None:
        self._slots: list[Slot] = []

    def add(self, outcome: str, seconds: float) -> None:
        second = int(time.monotonic())
        if not self._slots or self._slots[-1].second != second:
            self._slots = [slot for slot in self._slots if slot.second > second - WINDOW_S - 2]
            self._slots.append(Slot(second, defaultdict(int), defaultdict(int)))
        slot = self._slots[-1]
        slot.outcomes[outcome] += 1
        if outcome == "ok":
            slot.buckets[math.floor(math.log2(max(seconds * 1000, 1e-3)) * _STEPS)] += 1

    def summary(self) -> Summary:
        """The last WINDOW_S full seconds."""
        now = int(time.monotonic())
        slots = [slot for slot in self._slots if now - WINDOW_S <= slot.second < now]
        return merge(Summary(dict(slot.outcomes), dict(slot.buckets)) for slot in slots)


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
