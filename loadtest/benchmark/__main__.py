"""python -m loadtest.benchmark --users 200 --duration 1h [--model … --scenario … --out DIR]"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from loadtest.benchmark import report
from loadtest.benchmark.plan import Plan
from loadtest.benchmark.runner import Runner
from loadtest.benchmark.store import Store
from loadtest.benchmark.summary import document
from loadtest.cli import checked, interruptible, model_options, number_list, provenance, result_options, whole_seconds
from loadtest.progress import Progress
from loadtest.served_model import ServedModel


def _users(text: str) -> tuple[int, ...]:
    return () if text == "none" else number_list(text, int, 1, "none, or whole numbers from 1")


def _rates(text: str) -> tuple[float | str, ...]:
    if text in ("none", "auto"):
        return () if text == "none" else ("auto",)
    return number_list(text, float, 0.001, "auto, none, or requests per second")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@model_options
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="SmartBatch's workers.")
@click.option(
    "--users",
    default="200",
    show_default=True,
    callback=checked(_users),
    help="Users of the closed loop, separated by commas; or none.",
)
@click.option(
    "--rate",
    default="auto",
    show_default=True,
    callback=checked(_rates),
    help="Requests/s of the open loop, separated by commas; auto: 80 % of SmartBatch's throughput in the closed loop.",
)
@click.option(
    "--duration",
    default="1m",
    show_default=True,
    callback=checked(whole_seconds),
    help="Duration of each phase: 90s, 10m, 1h.",
)
@click.option(
    "--warmup",
    default="3s",
    show_default=True,
    callback=checked(whole_seconds),
    help="Minimum warm-up before each phase.",
)
@result_options("production-results")
def command(model, weights, workers, users, rate, duration, warmup, scenario, files, out, fresh) -> None:
    """Measure a baseline (one request at a time) and SmartBatch, one after the other, under the same load.

    Settings come from the environment, for both: MAX_BATCH_SIZE=64 python -m loadtest.benchmark … The same command
    resumes an interrupted run, or shows the result of a complete one.
    """
    if not users and not rate:
        raise click.UsageError("there is nothing to measure: give --users or --rate")
    if "auto" in rate and not users:
        raise click.UsageError("--rate auto follows from a closed loop: give --users too, or a rate")
    served = ServedModel.from_options(model, weights, workers)
    plan = Plan(served, scenario, tuple(str(path.resolve()) for path in files), users, rate, duration, warmup)
    store = Store(out)
    with interruptible(out):
        if store.open(plan, fresh=fresh):
            click.echo(f"resuming the run in {out}", err=True)
        with Progress() as progress:
            phases = Runner(plan, store, progress).run()
        store.update(**provenance("loadtest.benchmark"))
        result = document(store, phases)
        sys.exit(_write(result, out))


def _write(result: dict[str, Any], out: Path) -> int:
    """Write the results; return the exit code, 1 if responses were wrong."""
    from loadtest.benchmark.plots import draw

    path = out / "result.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    plots = draw(result, out)
    page = report.write(result, out)
    click.echo(report.text(result))
    click.echo(f"\n{report.agreement(result)} {report.disturbance(result)}\n")
    click.echo("\n".join(str(each) for each in (page, path, *plots)))
    return 1 if result["agreement"]["disagreeing"] or result["totals"]["wrong"] else 0


if __name__ == "__main__":
    command()
