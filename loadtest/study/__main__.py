"""python -m loadtest.study --p99 100ms [--model … --trials … --out DIR]"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from loadtest import machine
from loadtest.cli import (
    checked,
    duration_s,
    interruptible,
    model_options,
    number_list,
    provenance,
    result_options,
    whole_seconds,
)
from loadtest.progress import Progress, log
from loadtest.served_model import ServedModel
from loadtest.study import report
from loadtest.study.plots import draw
from loadtest.study.search import JOURNAL, Search, document, open_study
from loadtest.study.space import Space, batch_sizes, waits
from loadtest.study.tuned import TunedSystem
from loadtest.workload import scenario as scenarios

NO_SETTING = 3  # exit code
_whole = partial(number_list, read=int, what="whole numbers from 1", minimum=1)


def _waits(text: str) -> tuple[float, ...]:
    return () if text == "auto" else number_list(text, duration_s, 0.0, "durations like 0,5ms,0.01")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--p99", required=True, callback=checked(duration_s), help="The latency objective: 100ms, 2s.")
@model_options
@click.option("--trials", type=click.IntRange(1), default=30, show_default=True, help="Settings to try.")
@click.option("--max-batch", type=click.IntRange(1), default=64, show_default=True, help="The largest MAX_BATCH_SIZE.")
@click.option(
    "--wait", default="auto", show_default=True, callback=checked(_waits), help="MAX_WAIT_TIMEs to try: 0,2ms,10ms."
)
@click.option(
    "--workers",
    default="1",
    show_default=True,
    callback=checked(_whole),
    help="Numbers of workers, separated by commas.",
)
@click.option(
    "--decode-threads",
    default="0",
    show_default=True,
    callback=checked(partial(number_list, read=int, what="whole numbers from 0", minimum=0)),
    help="DECODE_THREADS to try, separated by commas; 0: one per core, up to 4.",
)
@click.option(
    "--users",
    default="4,8,16,32,64,128,256",
    show_default=True,
    callback=checked(_whole),
    help="The loads of each trial, in ascending order.",
)
@click.option(
    "--seconds", default="4s", show_default=True, callback=checked(whole_seconds), help="Duration of each load."
)
@result_options("study-results")
def command(
    p99, model, weights, trials, max_batch, wait, workers, decode_threads, users, seconds, scenario, files, out, fresh
) -> None:
    """Find MAX_BATCH_SIZE, MAX_WAIT_TIME, workers and decode threads with the highest throughput within a latency.

    Other settings come from the environment. The same command resumes an interrupted study; a higher --trials continues
    it.
    """
    if p99 <= 0:
        raise click.UsageError("--p99: expected more than 0")
    space = Space(batch_sizes(max_batch), wait or waits(p99), workers, decode_threads)
    served = ServedModel.from_options(model, weights, workers[0])
    parameters = {
        **{name: value for name, value in served._asdict().items() if name != "workers"},
        "p99_ms": p99 * 1000,
        "users": sorted(users),
        "seconds": seconds,
        "space": json.loads(json.dumps(space._asdict())),
        "scenario": scenario,
        "bodies": [str(path.resolve()) for path in files],
    }
    if fresh:
        (out / JOURNAL).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    with interruptible(out):
        result = _study(parameters, space, served, trials, files, out)
    _write(result, out)
    sys.exit(0 if result["recommended"] else NO_SETTING)


def _study(
    parameters: dict[str, Any], space: Space, served: ServedModel, trials: int, files: tuple[Path, ...], out: Path
) -> dict[str, Any]:
    study = open_study(out, parameters)
    log(f"loading {served.model} to read its metadata")
    name, bodies = scenarios.choose(parameters["scenario"], files, served.describe())
    described = machine.describe()
    with Progress() as progress, TunedSystem(served, max(space.MAX_BATCH_SIZE), bodies) as system:
        search = Search(study, space, system, progress)
        search.run(trials)
        search.confirm()
    sent = f"{name}, {len(bodies)} bodies"
    return document(study, space, machine=described, sent=sent, **provenance("loadtest.study"))


def _write(result: dict[str, Any], out: Path) -> None:
    path = out / "study.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    written = [*draw(result, out), path]
    if result["recommended"]:
        block = out / "recommended.env"
        block.write_text(report.environment(result["recommended"]) + "\n")
        written.append(block)
    click.echo(report.text(result))
    click.echo("\n" + "\n".join(str(each) for each in (report.write(result, out), *written)))


if __name__ == "__main__":
    command()
