"""Count the commands that the broker runs per request, including those inside scripts."""

from __future__ import annotations

from typing import Any

import redis

from loadtest.bench.figures import Figure, Outcome
from loadtest.bench.rows import echo, steady
from loadtest.bench.run import Run
from loadtest.generator.run import run_closed_loop
from loadtest.system import System, smartbatch

COMMANDS = 4.0
CONNECTIONS = 64


def row(run: Run) -> Outcome:
    details: dict[str, Any] = {}
    figures: list[Figure] = []
    for name, model in (("E", echo.MODEL), ("S", steady.MODEL)):
        with smartbatch(model) as system:
            run.log(f"broker, commands per request of {name}")
            run_closed_loop(system.port, echo.BODY, CONNECTIONS, 1)
            before = _calls(system)
            result = run_closed_loop(system.port, echo.BODY, CONNECTIONS, run.seconds(5))
            after = _calls(system)
        each = {
            command: round((calls - before.get(command, 0)) / result["requests"], 3)
            for command, calls in after.items()
            if command not in ("info", "hello")  # this measurement's own
        }
        details[name] = {"requests": result["requests"], "per_request": {k: v for k, v in each.items() if v}}
        total = round(sum(each.values()), 2)
        figures.append(Figure(f"{name}, {CONNECTIONS} connections", total, "/request", COMMANDS, "at most"))
    return Outcome(figures, details)


def _calls(system: System) -> dict[str, int]:
    with redis.Redis(port=system.broker_port()) as client:
        stats: Any = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
