"""The studies of docs/scale.md. Each prints a Markdown table, and writes a plot if a folder is given."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from simulation.arrivals import Open, bursty, poisson
from simulation.costs import affine
from simulation.outcomes import Outcomes
from simulation.reference import one_queue
from simulation.system import Pattern, Result, Scenario, simulate

S = affine(4, 0.2)
S_PER_S = 32 / S(32)  # rows/s at most
SLOW = affine(40, 2)
LOADS = (0.005, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85)

HEADER = (
    "| system | goodput /s | mean batch | p50 ms | p99 ms | rejected | late | device busy | broker busy |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def line(name: str, result: Result) -> str:
    rejected, late = result.rejected / max(1, result.arrived), result.late / max(1, result.arrived)
    return (
        f"| {name} | {result.goodput:,.0f} | {result.mean_batch:.1f} | {result.p50_ms:.1f} | {result.p99_ms:.1f} | "
        f"{rejected:.1%} | {late:.1%} | {result.device_busy:.0%} | {result.broker_busy:.0%} |"
    )


def consolidation(out: Path | None) -> None:
    """Compare batches of eight workers (40 ms + 2 ms per row; adaptive, then fixed window) with one in-process queue.

    The reference always waits out its window.
    """
    print("| load | arrivals | one in-process queue | adaptive | share of it | p50 ms | fixed | share of it | p50 ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    drawn: dict[str, list[tuple[float, float, float, float]]] = {}
    for pattern in ("poisson", "bursty"):
        for load in LOADS:
            reference, results = _consolidation(pattern, load)
            adaptive, fixed = (result.mean_batch for result in results)
            drawn.setdefault(pattern, []).append((load, reference, adaptive, fixed))
            cells = (f"{r.mean_batch:.2f} | {r.mean_batch / reference:.0%} | {r.p50_ms:.1f}" for r in results)
            print(f"| {load:.1%} | {pattern} | {reference:.2f} | {' | '.join(cells)} |", flush=True)
    if out:
        from simulation import plots  # needs matplotlib, of the extra `loadtest`

        plots.consolidation(drawn, out / "consolidation.png")


def _consolidation(
    pattern: Pattern, load: float, workers: int = 8, seconds: float = 20.0
) -> tuple[float, list[Result]]:
    """Return the reference's mean batch, and the results with adaptive and fixed window."""
    rate = load * workers * 32 / SLOW(32)
    scenario = Scenario(curve=SLOW, workers=workers, pattern=pattern, rate=rate, measured_s=seconds)
    results = [
        simulate(msgspec.structs.replace(scenario, limits=msgspec.structs.replace(scenario.limits, adaptive=adaptive)))
        for adaptive in (True, False)
    ]
    end = scenario.warm_up_s + seconds
    reference = Outcomes(scenario.warm_up_s, end)
    times = {"poisson": poisson, "bursty": bursty}[pattern](rate, random.Random(f"{scenario.seed}:0"))
    one_queue(Open(times, end), workers, SLOW, scenario.limits, reference)
    return reference.mean_batch, results


def scale(out: Path | None) -> None:
    """Run 1 to 1,000 workers of S on one broker, to find how many it can serve."""
    print(HEADER)
    drawn: dict[str, list[tuple[int, Result]]] = {}
    for load in (0.5, 1.3):
        for workers in (1, 2, 4, 8, 16, 32, 100, 1000):
            rate = min(load * workers * S_PER_S, 90_000)  # more than one broker can serve
            result = simulate(
                Scenario(
                    curve=S,
                    workers=workers,
                    rate=rate,
                    gateways=max(1, round(rate / 10_000)),  # half of a gateway's capacity
                    timeout_s=1.0,
                    warm_up_s=0.2 if workers > 8 else 0.5,
                    measured_s=0.5 if workers > 8 else 2.0,
                )
            )
            drawn.setdefault(f"{load:.0%}", []).append((workers, result))
            print(line(f"{workers} at {rate:,.0f} /s", result), flush=True)
    if out:
        from simulation import plots  # needs matplotlib, of the extra `loadtest`

        plots.scale(drawn, S_PER_S, out / "one-broker.png")


def partitions(out: Path | None) -> None:
    """Distribute 1,000 workers of S and a million requests/s over several brokers.

    Partitions share nothing, so only one of them is simulated; `million` simulates all.
    """
    print(HEADER)
    drawn: list[tuple[int, Result]] = []
    for brokers in (12, 16, 20, 25, 32, 40, 50, 64):
        result = simulate(one_of(brokers))
        drawn.append((brokers, result))
        print(line(f"one of {brokers} brokers", result), flush=True)
    if out:
        from simulation import plots  # needs matplotlib, of the extra `loadtest`

        plots.partitions(drawn, out / "partitions.png")


def million(out: Path | None, brokers: int = 32) -> None:
    """Simulate all partitions: 1,000 workers, a million requests/s. It takes a minute."""
    one = one_of(brokers)
    result = simulate(msgspec.structs.replace(one, workers=1000, partitions=brokers, rate=1e6, measured_s=0.2))
    print(HEADER, line(f"all of {brokers} brokers", result), sep="\n")
    print(f"{result.arrived:,} requests, {result.events:,} events in {result.cpu_s:.0f} s of CPU")


CASES: dict[str, dict[str, Any]] = {
    "even": {},
    "skewed": {"skew": (1, 2, 4)},
    "slow": {"slow": 2.0},
    "dying": {"dies_at": 0.3, "timeout_s": 5.0, "measured_s": 1.7},
}


def shared(out: Path | None, brokers: Sequence[int] = (20, 32), cases: Sequence[str] = tuple(CASES)) -> None:
    """Compare partitions as the product uses them with ideal ones: 1,000 workers, a million requests/s."""
    print(HEADER.replace("system", "brokers, case | partitions").replace("---|", "---|---|", 1))
    for count in brokers:
        for case in cases:
            scenario = every(count, **CASES[case])
            ideal, real = (simulate(msgspec.structs.replace(scenario, shared=each)) for each in (False, True))
            print(line(f"{count}, {case} | ideal", ideal), line(f"{count}, {case} | shared", real), sep="\n")
            print(
                f"| | shared to ideal | {real.goodput / ideal.goodput:.1%} | | {real.p50_ms / ideal.p50_ms:.2f} × "
                f"| {real.p99_ms / ideal.p99_ms:.2f} × | {real.failed} failed, {ideal.failed} with ideal ones | "
                f"{real.late} late, {ideal.late} | longest {real.max_ms:,.0f} ms | |",
                flush=True,
            )


def every(brokers: int, **changes: Any) -> Scenario:
    """Return the scenario of all partitions of 1,000 workers and a million requests/s, with 96 or more gateways."""
    gateways = 3 * math.floor(100 / brokers / 3 + 0.5)
    whole = msgspec.structs.replace(one_of(brokers), workers=1000, partitions=brokers, gateways=gateways, rate=1e6)
    return msgspec.structs.replace(whole, **{"measured_s": 0.4, **changes})


def one_of(brokers: int) -> Scenario:
    """Return the scenario of one partition of 1,000 workers and a million requests/s."""
    return Scenario(
        curve=S,
        workers=round(1000 / brokers),
        gateways=math.ceil(100 / brokers),  # each serves 20,000 requests/s at most
        rate=1e6 / brokers,
        timeout_s=1.0,
        warm_up_s=0.1,
        measured_s=0.5,
    )
