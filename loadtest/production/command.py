"""The command line of the A/B benchmark."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from pathlib import Path

import click

from loadtest.drive.driving import GeneratorFailed
from loadtest.drive.inputs import checked, numbers, whole_seconds
from loadtest.drive.options import results, served_and_sent
from loadtest.drive.scenario import NoScenario
from loadtest.drive.servers import ModelFailed
from loadtest.production import report
from loadtest.production.display import Display
from loadtest.production.plan import Plan
from loadtest.production.run import Runner, plan_of
from loadtest.production.store import OtherRun, Store
from loadtest.production.summary import document
from loadtest.traffic.asking import Refused

INTERRUPTED = 130


def _users(text: str) -> tuple[int, ...]:
    return () if text == "none" else numbers(text, int, 1, "none, or whole numbers from 1")


def _rates(text: str) -> tuple[float | str, ...]:
    if text in ("none", "auto"):
        return () if text == "none" else ("auto",)
    return numbers(text, float, 0.001, "auto, none, or requests a second")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@served_and_sent
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="SmartBatch's workers.")
@click.option(
    "--users",
    default="200",
    show_default=True,
    callback=checked(_users),
    help="Users of the closed loop, by comma; or none.",
)
@click.option(
    "--rate",
    default="auto",
    show_default=True,
    callback=checked(_rates),
    help="Requests a second of the open loop, by comma; auto: 80 % of what SmartBatch answered in the closed loop.",
)
@click.option(
    "--duration", default="1m", show_default=True, callback=checked(whole_seconds), help="Of each phase: 90s, 10m, 1h."
)
@click.option(
    "--warmup",
    default="3s",
    show_default=True,
    callback=checked(whole_seconds),
    help="Before each phase, at the least.",
)
@results("production-results")
def command(model, weights, workers, users, rate, duration, warmup, scenario, own, out, fresh) -> None:
    """Measure a baseline (one request at a time) and SmartBatch, one after the other, under the same load.

    Settings come from the environment, for both: MAX_BATCH_SIZE=64 python loadtest/production_benchmark.py … The same
    command resumes a run that was broken off, or shows the result of one that is complete.
    """
    if not users and not rate:
        raise click.UsageError("there is nothing to measure: give --users or --rate")
    if "auto" in rate and not users:
        raise click.UsageError("--rate auto follows from a closed loop: give --users too, or a rate")
    plan = plan_of(
        model,
        weights,
        workers,
        scenario=scenario,
        bodies=tuple(str(path.resolve()) for path in own),
        users=users,
        rates=rate,
        duration_s=duration,
        warm_s=warmup,
    )
    store = Store(out)
    try:
        if store.open(plan, fresh=fresh):
            click.echo(f"taking up what {out} holds", err=True)
        result = _run(plan, store, list(own))
    except (OtherRun, ModelFailed, NoScenario, Refused, GeneratorFailed, ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo(f"\nstopped; what was measured is in {out}, and the same command goes on from there", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(_tell(result, out))


def _run(plan: Plan, store: Store, own: list[Path]) -> dict:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as a Ctrl-C: what was started is stopped
    with Display(plan.duration_s) as display:
        phases = Runner(plan, store, display, own).run()
    store.remember(
        command=shlex.join(["python", "loadtest/production_benchmark.py", *sys.argv[1:]]),
        finished_at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )
    return document(store, phases)


def _tell(result: dict, out: Path) -> int:
    """Write the results; return the exit code: 1 if answers were wrong."""
    from loadtest.production.plots import draw

    path = out / "result.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    plots = draw(result, out)
    page = report.write(result, out)
    click.echo(report.text(result))
    click.echo(f"\n{report.agreement(result)} {report.disturbance(result)}\n")
    click.echo("\n".join(str(each) for each in (page, path, *plots)))
    return 1 if result["agreement"]["disagreeing"] or result["totals"]["wrong"] else 0
