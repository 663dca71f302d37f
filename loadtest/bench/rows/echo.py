"""E: what the path itself costs, with a model that does nothing, beside a naive server, and beside the least that the
design can do with, in the same run."""

from __future__ import annotations

from typing import Any

from loadtest.bench.closed_loop import drive
from loadtest.bench.figures import Figure, Outcome, Run, median
from loadtest.bench.system import System, floor, naive, smartbatch

MODEL = "simulated:base_ms=0,row_ms=0"
BODY = b"x" * 1024
CONNECTIONS = (64, 256)
TIMES_NAIVE = 1.2
REQUESTS_PER_S = 9000.0
LONE_MS = 0.9


def measure(run: Run) -> Outcome:
    """The servers take turns, so that what else the machine does meets all of them."""
    details: dict[str, Any] = {"smartbatch": {}, "naive": {}, "floor": {}}
    figures: list[Figure] = []
    with smartbatch(MODEL) as ours, naive("echo") as theirs, floor(MODEL) as least:
        sides = {"smartbatch": ours, "naive": theirs, "floor": least}
        for connections in CONNECTIONS:
            for side, system in sides.items():
                drive(system.port, BODY, connections, 1)  # warm
                details[side][str(connections)] = []
            for number in range(run.rounds(3)):
                for side, system in sides.items():
                    run.say(f"E: {connections} connections, {side}, round {number + 1}")
                    details[side][str(connections)].append(driven(system, BODY, connections, run.seconds(5)))
            figures += _figures(connections, *(details[side][str(connections)] for side in sides))
        details["resident_mb"] = {side: system.resident_mb() for side, system in sides.items()}
    with smartbatch(MODEL) as ours:
        run.say("E: one connection")
        drive(ours.port, BODY, 1, 1)
        rounds = [drive(ours.port, BODY, 1, run.seconds(4)) for _ in range(run.rounds(3))]
        details["one_connection"] = rounds
        figures.append(
            Figure("one connection, p50", median([each["p50_ms"] for each in rounds]), "ms", LONE_MS, "at most")
        )
    return Outcome(figures, details)


def driven(system: System, body: bytes, connections: int, seconds: float, **how: str) -> dict[str, Any]:
    """Drive in a closed loop, and add the CPU seconds that each 1,000 requests took, by role and in total."""
    before = system.cpu_s()
    result = drive(system.port, body, connections, seconds, **how)
    thousands = max(1, result["requests"] - result["errors"]) / 1000
    cost = {role: round((spent - before.get(role, 0.0)) / thousands, 4) for role, spent in system.cpu_s().items()}
    return {**result, "cpu_s_per_1000": cost, "cpu_s_per_1000_total": round(sum(cost.values()), 4)}


def _figures(
    connections: int, ours: list[dict[str, Any]], theirs: list[dict[str, Any]], least: list[dict[str, Any]]
) -> list[Figure]:
    cost, yardstick, bottom = (
        median([each["cpu_s_per_1000_total"] for each in side]) for side in (ours, theirs, least)
    )
    rate, naive_rate = (median([each["requests_per_s"] for each in side]) for side in (ours, theirs))
    at = f"{connections} connections"
    return [
        Figure(f"{at}, CPU per 1,000 requests", cost, "s", round(TIMES_NAIVE * yardstick, 4), "at most"),
        Figure(f"{at}, throughput", rate, "req/s", REQUESTS_PER_S),
        Figure(f"{at}, naive server's CPU per 1,000", yardstick, "s"),
        Figure(f"{at}, naive server's throughput", naive_rate, "req/s"),
        Figure(f"{at}, the design's floor, CPU per 1,000", bottom, "s"),
    ]
