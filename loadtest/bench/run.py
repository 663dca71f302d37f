"""Measurements of the rows: a closed loop with its CPU time, and several measurements interleaved."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from loadtest.generator.run import run_closed_loop
from loadtest.system import System

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """How long to measure. Progress is printed to stderr."""

    quick: bool = False

    def seconds(self, full: float) -> float:
        """Return the duration of one measurement, at most a second in a quick run."""
        return min(full, 1.0) if self.quick else full

    def rounds(self, full: int) -> int:
        return 1 if self.quick else full

    def log(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}    {text}", file=sys.stderr, flush=True)

    def interleave(
        self,
        title: str,
        measurements: Mapping[str, Callable[[float], T]],
        *,
        rounds: int = 3,
        seconds: float = 5.0,
        warm_s: float = 1.0,
    ) -> dict[str, list[T]]:
        """Warm up each measurement, then run them in turns, so that other load on the machine affects all of them.

        A measurement is called with its duration in seconds. Return its results, one per round.
        """
        results: dict[str, list[T]] = {name: [] for name in measurements}
        for measure in measurements.values():
            measure(warm_s)
        for number in range(self.rounds(rounds)):
            for name, measure in measurements.items():
                self.log(": ".join(filter(None, (title, name))) + f", round {number + 1}")
                results[name].append(measure(self.seconds(seconds)))
        return results


def measure(system: System, body: bytes, connections: int, seconds: float, **request: str) -> dict[str, Any]:
    """Run a closed loop; add the CPU seconds per 1,000 successes to its result, by role and in total."""
    before = system.cpu_s()
    result = run_closed_loop(system.port, body, connections, seconds, **request)
    thousands = max(1, result["requests"] - result["errors"]) / 1000
    cost = {role: round((spent - before.get(role, 0.0)) / thousands, 4) for role, spent in system.cpu_s().items()}
    return {**result, "cpu_s_per_1000": cost, "cpu_s_per_1000_total": round(sum(cost.values()), 4)}


def closed_loop(system: System, body: bytes, connections: int, **request: str) -> Callable[[float], dict[str, Any]]:
    """Return `measure` with these arguments, as a measurement for `interleave`."""
    return lambda seconds: measure(system, body, connections, seconds, **request)


def median(values: list[float]) -> float:
    """Return the middle value, or the lower of the two in the middle, so that it is a measured value."""
    return sorted(values)[(len(values) - 1) // 2]


def median_of(results: list[dict[str, Any]], name: str) -> float:
    return median([each[name] for each in results])
