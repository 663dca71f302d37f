"""E: what the path itself costs, with a model that does nothing, beside a naive server, and beside the least that the
design can do with, in the same run."""

from __future__ import annotations

import json
from typing import Any

from loadtest.bench.closed_loop import drive
from loadtest.bench.figures import Figure, Outcome, Run, median
from loadtest.bench.system import System, floor, naive, smartbatch

MODEL = "simulated:base_ms=0,row_ms=0"
BODY = b"x" * 1024
# As much by the protocol of Triton's clients.
_TENSOR = {"name": "input", "datatype": "BYTES", "shape": [1], "data": ["x" * 1024]}
INFER = json.dumps({"inputs": [_TENSOR]}).encode()
INFER_HOW = {"path": "/v2/models/simulated/infer", "content_type": "application/json"}
CONNECTIONS = (64, 256)
TIMES_NAIVE = 1.2
REQUESTS_PER_S = 9000.0
LONE_MS = 0.9


def measure(run: Run) -> Outcome:
    """The servers take turns, so that what else the machine does meets all of them."""
    details: dict[str, Any] = {}
    figures: list[Figure] = []
    with smartbatch(MODEL) as ours, naive("echo") as theirs, floor(MODEL) as least:
        systems = {"smartbatch": ours, "naive": theirs, "floor": least}
        asked = {side: (system, BODY, {}) for side, system in systems.items()} | {"infer": (ours, INFER, INFER_HOW)}
        for connections in CONNECTIONS:
            measured: dict[str, list[dict[str, Any]]] = {side: [] for side in asked}
            for system, body, how in asked.values():
                drive(system.port, body, connections, 1, **how)  # warm
            for number in range(run.rounds(3)):
                for side, (system, body, how) in asked.items():
                    run.say(f"E: {connections} connections, {side}, round {number + 1}")
                    measured[side].append(driven(system, body, connections, run.seconds(5), **how))
            figures += _figures(connections, measured)
            for side, rounds in measured.items():
                details.setdefault(side, {})[str(connections)] = rounds
        details["resident_mb"] = {side: system.resident_mb() for side, system in systems.items()}
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


def _figures(connections: int, measured: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    cost = {side: median([each["cpu_s_per_1000_total"] for each in rounds]) for side, rounds in measured.items()}
    rate = {side: median([each["requests_per_s"] for each in rounds]) for side, rounds in measured.items()}
    at = f"{connections} connections"
    most = round(TIMES_NAIVE * cost["naive"], 4)
    return [
        Figure(f"{at}, CPU per 1,000 requests", cost["smartbatch"], "s", most, "at most"),
        Figure(f"{at}, throughput", rate["smartbatch"], "req/s", REQUESTS_PER_S),
        Figure(f"{at}, naive server's CPU per 1,000", cost["naive"], "s"),
        Figure(f"{at}, naive server's throughput", rate["naive"], "req/s"),
        Figure(f"{at}, the design's floor, CPU per 1,000", cost["floor"], "s"),
        Figure(f"{at}, as infer requests of /v2, CPU per 1,000", cost["infer"], "s"),
        Figure(f"{at}, as infer requests of /v2, throughput", rate["infer"], "req/s"),
    ]
