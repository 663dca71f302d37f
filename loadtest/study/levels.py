"""One setting under more and more users: how much does it serve within the latency asked for?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from loadtest.drive.histogram import merged, percentile_ms

SATURATED = 1.03  # less than this times the level before: more users only wait longer


class Level(NamedTuple):
    """What one load came to."""

    load: float  # users, or requests a second
    throughput_rps: float
    p50_ms: float | None
    p99_ms: float | None
    batch_rows: float | None
    refused: int
    errors: int

    def meets(self, p99_ms: float) -> bool:
        return not self.errors and not self.refused and self.p99_ms is not None and self.p99_ms <= p99_ms


def level(load: float, events: list[tuple[str, dict[str, Any]]]) -> Level:
    """Add up what the generator counted."""
    seconds = [counted for event, counted in events if event == "second"]
    ends = [counted for event, counted in events if event == "end"]
    latency = merged(each["latency"] for each in seconds) + merged(end["unanswered"] for end in ends)
    errors: Counter[str] = Counter()
    for each in seconds:
        errors.update(each["errors"])
    batches = sum(each.get("batches", 0) for each in seconds)
    return Level(
        load,
        round(sum(each["ok"] for each in seconds) / max(1, len(seconds)), 2),
        percentile_ms(latency, 50),
        percentile_ms(latency, 99),
        round(sum(each.get("rows", 0) for each in seconds) / batches, 2) if batches else None,
        sum(each["refused"] for each in seconds),
        errors.total(),
    )


def climb(
    ladder: tuple[int, ...], measure: Callable[[int], Level], p99_ms: float, told: Callable[[Level], None]
) -> list[Level]:
    """Measure with more and more users, until the latency is too high or nothing is gained by more.

    `told` is called after each level, and may raise to end it.
    """
    levels: list[Level] = []
    for users in ladder:
        measured = measure(users)
        levels.append(measured)
        told(measured)
        if not measured.meets(p99_ms):
            break
        if len(levels) > 1 and measured.throughput_rps < SATURATED * levels[-2].throughput_rps:
            break
    return levels


def best(levels: list[Level], p99_ms: float) -> Level | None:
    """The level that served most within the latency asked for."""
    meeting = [each for each in levels if each.meets(p99_ms)]
    return max(meeting, key=lambda each: each.throughput_rps, default=None)
