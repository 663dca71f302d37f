"""Compare the S rows of `make bench` with simulations that use the CPU times measured in those rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simulation.costs import affine, as_measured
from simulation.system import Scenario, simulate

CONNECTIONS = (64, 256)


def reproduced(bench: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table. `bench` is the content of bench.json with row S."""
    yield "| S, connections | measured /s | simulated /s | | measured p50 ms | simulated p50 ms | |"
    yield "|---|---|---|---|---|---|---|"
    rounds = bench["rows"]["S"]["details"]
    for connections in CONNECTIONS:
        measured = sorted(rounds[str(connections)], key=lambda each: each["requests_per_s"])
        middle = measured[(len(measured) - 1) // 2]
        cpu_s = {role: seconds / 1000 for role, seconds in middle["cpu_s_per_1000"].items()}
        client_s = middle["generator_cpu_s_per_1000"] / 1000
        costs = as_measured(cpu_s["gateway"], cpu_s["broker"], cpu_s["worker"], client_s, bench["machine"]["cores"])
        result = simulate(
            Scenario(curve=affine(4, 0.2), pattern="closed", clients=connections, costs=costs, measured_s=5.0)
        )
        rate, p50_ms = middle["requests_per_s"], middle["p50_ms"]
        yield (
            f"| {connections} | {rate:,.0f} | {result.goodput:,.0f} | {result.goodput / rate - 1:+.1%} "
            f"| {p50_ms:.1f} | {result.p50_ms:.1f} | {result.p50_ms / p50_ms - 1:+.1%} |"
        )
