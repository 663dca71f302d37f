"""S: a device of 4 ms and 0.2 ms a row, kept busy by a closed loop; and what one lone request waits."""

from __future__ import annotations

from typing import Any

from loadtest.bench.closed_loop import drive
from loadtest.bench.figures import Figure, Outcome, Run, median
from loadtest.bench.rows.echo import driven
from loadtest.bench.system import floor, naive, smartbatch

BASE_MS, ROW_MS = 4.0, 0.2
MODEL = f"simulated:base_ms={BASE_MS:g},row_ms={ROW_MS:g}"
BODY = b"x" * 1024
MAX_ROWS = 32
CAPACITY = 1000 * MAX_ROWS / (BASE_MS + ROW_MS * MAX_ROWS)  # rows a second: 3,077
SHARE = 0.97
LONE_MS = 5.5


def measure(run: Run) -> Outcome:
    details: dict[str, Any] = {"capacity": round(CAPACITY, 1)}
    figures: list[Figure] = []
    with smartbatch(MODEL) as system:
        for connections in (64, 256):
            run.say(f"S: {connections} connections")
            drive(system.port, BODY, connections, 1)
            rounds = [driven(system, BODY, connections, run.seconds(5)) for _ in range(run.rounds(3))]
            details[str(connections)] = rounds
            rate = median([each["requests_per_s"] for each in rounds])
            figures.append(Figure(f"{connections} connections, throughput", rate, "req/s", round(SHARE * CAPACITY, 1)))
    with smartbatch(MODEL) as ours, floor(MODEL) as least:
        sides = {"1": ours, "1_floor": least}
        for side, system in sides.items():
            drive(system.port, BODY, 1, 1)
            details[side] = []
        for number in range(run.rounds(3)):
            for side, system in sides.items():
                run.say(f"S: one connection, round {number + 1}")
                details[side].append(drive(system.port, BODY, 1, run.seconds(4)))
        lone, bottom = (median([each["p50_ms"] for each in details[side]]) for side in sides)
        figures.append(Figure("one connection, p50", lone, "ms", LONE_MS, "at most"))
        figures.append(Figure("one connection, p50 of the design's floor", bottom, "ms"))
    with naive("sleep:4.2") as system:  # one row alone takes the device 4.2 ms
        run.say("S: the naive server, 64 connections")
        details["naive"] = drive(system.port, BODY, 64, run.seconds(4))
        figures.append(Figure("naive server's throughput", details["naive"]["requests_per_s"], "req/s"))
    return Outcome(figures, details)
