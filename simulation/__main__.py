"""Simulate a system and print the result, or make the tables and plots of docs/scale.md.

    python -m simulation run --workers 8 --rate 5000 [--pattern bursty] [--curve 40,2 | --curve 1:5,8:12,32:60]
    python -m simulation consolidation | scale | partitions | million [--out docs/images]
    python -m simulation shared [--brokers 20 32] [--cases even skewed slow dying]
    python -m simulation check bench-results/bench.json     compare the measured S rows with a simulation of them
    python -m simulation cost-benchmark                     measure the cost of the broker's commands on this machine

Times are virtual. `--curve base,row` is in ms; `rows:ms,…` interpolates measured points.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from simulation import cost_benchmark, studies
from simulation.check import reproduced
from simulation.costs import Curve, affine, measured
from simulation.system import Scenario, simulate
from smartbatch.worker.batching.policy import Limits

STUDIES = {
    "consolidation": studies.consolidation,
    "scale": studies.scale,
    "partitions": studies.partitions,
    "million": studies.million,
    "shared": studies.shared,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--curve", type=_curve, default=affine(4, 0.2))
    run.add_argument("--pattern", choices=["poisson", "bursty", "closed"], default="poisson")
    run.add_argument("--rate", type=float, default=1000.0, help="total requests/s")
    run.add_argument("--clients", type=int, default=64, help="of a closed loop")
    run.add_argument("--think-ms", type=float, default=0.0, help="mean think time of a closed loop's clients")
    run.add_argument("--workers", type=int, default=1)
    run.add_argument(
        "--partitions", type=int, default=1, help="brokers, each with an equal share of workers, gateways and load"
    )
    run.add_argument("--shared", action="store_true", help="every gateway uses all partitions, and workers move")
    run.add_argument("--slow", type=float, default=1.0, help="partition 0's forwards take so many times longer")
    run.add_argument("--dies-at", type=float, default=0.0, help="when partition 0's broker dies, in seconds")
    run.add_argument("--gateways", type=int, default=1, help="per partition")
    run.add_argument("--max-rows", type=int, default=32, help="MAX_BATCH_SIZE")
    run.add_argument("--window-ms", type=float, default=10.0, help="MAX_WAIT_TIME")
    run.add_argument("--fixed-window", action="store_true", help="WINDOW=fixed")
    run.add_argument("--timeout", type=float, default=5.0, help="seconds")
    run.add_argument("--seconds", type=float, default=2.0, help="measured, after half a second of warm-up")
    run.add_argument("--seed", type=int, default=1)
    for name in STUDIES:
        study = commands.add_parser(name)
        study.add_argument("--out", type=Path, help="a folder for the plots")
        if name == "shared":
            study.add_argument("--brokers", type=int, nargs="+", default=[20, 32])
            study.add_argument("--cases", nargs="+", choices=studies.CASES, default=list(studies.CASES))
    check = commands.add_parser("check")
    check.add_argument("bench", type=Path, help="the result of `make bench ONLY=S`")
    commands.add_parser("cost-benchmark")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # of gateways and workers whose broker died
    if options.command == "check":
        print(*reproduced(json.loads(options.bench.read_text())), sep="\n")
        return
    if options.command == "cost-benchmark":
        costs = cost_benchmark.measure()
        for name, cost in costs.items():
            print(f"{name:8} {cost.command_s * 1e6:6.1f} us per call, {cost.entry_s * 1e6:5.2f} us per entry")
        print(f"a request in full batches: {cost_benchmark.request_s(costs) * 1e6:.1f} us")
        return
    if options.command != "run":
        only = {name: vars(options)[name] for name in ("brokers", "cases") if name in options}
        STUDIES[options.command](options.out, **only)
        return
    result = simulate(
        Scenario(
            curve=options.curve,
            pattern=options.pattern,
            rate=options.rate,
            clients=options.clients,
            think_s=options.think_ms / 1000,
            workers=options.workers,
            partitions=options.partitions,
            shared=options.shared,
            slow=options.slow,
            dies_at=options.dies_at,
            gateways=options.gateways,
            limits=Limits(options.max_rows, 1 << 40, options.window_ms / 1000, not options.fixed_window),
            timeout_s=options.timeout,
            measured_s=options.seconds,
            seed=options.seed,
        )
    )
    print(studies.HEADER, studies.line(f"{options.workers} workers", result), sep="\n")
    print(
        f"{result.events} events in {result.cpu_s:.1f} s of CPU; outcomes: {result.ok} ok, {result.late} late, ", end=""
    )
    print(f"{result.rejected} rejected; closed: {result.closed}; commands: {result.commands}")


def _curve(text: str) -> Curve:
    if ":" in text:
        points = (part.split(":") for part in text.split(","))
        return measured({int(rows): float(ms) for rows, ms in points})
    base, row = map(float, text.split(","))
    return affine(base, row)


if __name__ == "__main__":
    sys.exit(main())
