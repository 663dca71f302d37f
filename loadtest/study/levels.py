"""Measure one setting under increasing numbers of users, for its highest throughput within the latency objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from loadtest.generator.counters import Event, totals
from loadtest.report.page import milliseconds

SATURATED = 1.03  # if throughput grows by less than this factor, more users would only wait longer


class Level(NamedTuple):
    """The outcome of one load."""

    load: float  # users, or requests per second
    throughput_rps: float
    p50_ms: float | None
    p99_ms: float | None
    batch_rows: float | None
    rejected: int
    errors: int

    def __str__(self) -> str:
        return f"{self.throughput_rps:,.1f} req/s, p99 {milliseconds(self.p99_ms)} at {self.load:g} users"

    def meets(self, p99_ms: float) -> bool:
        return not self.errors and not self.rejected and self.p99_ms is not None and self.p99_ms <= p99_ms


def level(load: float, events: Sequence[Event]) -> Level:
    sums = totals(events, count_unfinished=True)
    figures = (sums[name] for name in ("throughput_rps", "p50_ms", "p99_ms", "mean_batch_rows", "rejected", "errors"))
    return Level(load, *figures)


def climb(
    users: Sequence[int], measure: Callable[[int], Level], p99_ms: float, report: Callable[[Level], None]
) -> list[Level]:
    """Measure ascending numbers of users until the latency is too high or throughput no longer grows.

    `report` is called after each level, and may raise to stop.
    """
    levels: list[Level] = []
    for count in users:
        measured = measure(count)
        levels.append(measured)
        report(measured)
        if not measured.meets(p99_ms):
            break
        if len(levels) > 1 and measured.throughput_rps < SATURATED * levels[-2].throughput_rps:
            break
    return levels


def best(levels: list[Level], p99_ms: float) -> Level | None:
    """Return the level with the highest throughput within the objective."""
    meeting = [each for each in levels if each.meets(p99_ms)]
    return max(meeting, key=lambda each: each.throughput_rps, default=None)
