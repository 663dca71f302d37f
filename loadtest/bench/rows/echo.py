"""E: the cost of a request's path, with a model that does nothing, next to the naive server."""

from __future__ import annotations

import json
from typing import Any

from loadtest.bench.figures import Figure, Outcome
from loadtest.bench.run import Run, closed_loop, median_of
from loadtest.system import reference_server, smartbatch

MODEL = "simulated:base_ms=0,row_ms=0"
BODY = b"x" * 1024
# The same bytes as a request of the Open Inference Protocol.
_TENSOR = {"name": "input", "datatype": "BYTES", "shape": [1], "data": ["x" * 1024]}
INFER = json.dumps({"inputs": [_TENSOR]}).encode()
INFER_REQUEST = {"path": "/v2/models/simulated/infer", "content_type": "application/json"}
CONNECTIONS = (64, 256)
TIMES_NAIVE = 1.2
REQUESTS_PER_S = 9000.0
ONE_CONNECTION_MS = 0.9


def row(run: Run) -> Outcome:
    details: dict[str, Any] = {"smartbatch": {}, "naive": {}, "infer": {}}
    figures: list[Figure] = []
    with smartbatch(MODEL) as system, reference_server("naive", "echo") as naive:
        for connections in CONNECTIONS:
            measured = run.interleave(
                f"E, {connections} connections",
                {
                    "smartbatch": closed_loop(system, BODY, connections),
                    "naive": closed_loop(naive, BODY, connections),
                    "infer": closed_loop(system, INFER, connections, **INFER_REQUEST),
                },
            )
            figures += _figures(connections, measured)
            for side, rounds in measured.items():
                details[side][str(connections)] = rounds
        systems = {"smartbatch": system, "naive": naive}
        details["resident_mb"] = {side: each.resident_mb() for side, each in systems.items()}
    with smartbatch(MODEL) as system:
        rounds = run.interleave("E, one connection", {"": closed_loop(system, BODY, 1)}, seconds=4)[""]
        details["one_connection"] = rounds
        p50_ms = median_of(rounds, "p50_ms")
        figures.append(Figure("one connection, p50", p50_ms, "ms", ONE_CONNECTION_MS, "at most"))
    return Outcome(figures, details)


def _figures(connections: int, measured: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    cost = {side: median_of(rounds, "cpu_s_per_1000_total") for side, rounds in measured.items()}
    rate = {side: median_of(rounds, "requests_per_s") for side, rounds in measured.items()}
    at = f"{connections} connections"
    goal = round(TIMES_NAIVE * cost["naive"], 4)
    return [
        Figure(f"{at}, CPU per 1,000 requests", cost["smartbatch"], "s", goal, "at most"),
        Figure(f"{at}, throughput", rate["smartbatch"], "req/s", REQUESTS_PER_S),
        Figure(f"{at}, naive server's CPU per 1,000", cost["naive"], "s"),
        Figure(f"{at}, naive server's throughput", rate["naive"], "req/s"),
        Figure(f"{at}, as infer requests of /v2, CPU per 1,000", cost["infer"], "s"),
        Figure(f"{at}, as infer requests of /v2, throughput", rate["infer"], "req/s"),
    ]
