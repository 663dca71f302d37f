"""S: a device of 4 ms and 0.2 ms a row, kept busy by a closed loop; also the latency of a single connection."""

from __future__ import annotations

from typing import Any

from loadtest.bench.figures import Figure, Outcome
from loadtest.bench.run import Run, closed_loop, measure, median_of
from loadtest.system import reference_server, smartbatch

BASE_MS, ROW_MS = 4.0, 0.2
MODEL = f"simulated:base_ms={BASE_MS:g},row_ms={ROW_MS:g}"
BODY = b"x" * 1024
MAX_ROWS = 32
CAPACITY = 1000 * MAX_ROWS / (BASE_MS + ROW_MS * MAX_ROWS)  # rows/s: 3,077
SHARE = 0.97
ONE_CONNECTION_MS = 5.5


def row(run: Run) -> Outcome:
    details: dict[str, Any] = {"capacity": round(CAPACITY, 1)}
    figures: list[Figure] = []
    goal = round(SHARE * CAPACITY, 1)
    with smartbatch(MODEL) as system:
        for connections in (64, 256):
            rounds = run.interleave(f"S, {connections} connections", {"": closed_loop(system, BODY, connections)})[""]
            details[str(connections)] = rounds
            rate = median_of(rounds, "requests_per_s")
            figures.append(Figure(f"{connections} connections, throughput", rate, "req/s", goal))
    with smartbatch(MODEL) as system:
        details |= run.interleave("S, one connection", {"1": closed_loop(system, BODY, 1)}, seconds=4)
        p50_ms = median_of(details["1"], "p50_ms")
        figures.append(Figure("one connection, p50", p50_ms, "ms", ONE_CONNECTION_MS, "at most"))
    with reference_server("naive", f"sleep:{BASE_MS + ROW_MS:g}") as naive:
        run.log("S, the naive server, 64 connections")
        details["naive"] = measure(naive, BODY, 64, run.seconds(4))
        figures.append(Figure("naive server's throughput", details["naive"]["requests_per_s"], "req/s"))
    return Outcome(figures, details)
