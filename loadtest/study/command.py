"""The command line of the parameter study."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import click

from loadtest.bench import machine
from loadtest.drive import scenario as scenarios
from loadtest.drive import servers
from loadtest.drive.driving import GeneratorFailed
from loadtest.drive.inputs import checked, duration_s, numbers, whole_seconds
from loadtest.drive.options import results, served_and_sent
from loadtest.drive.scenario import NoScenario
from loadtest.drive.servers import ModelFailed, Served
from loadtest.study import report
from loadtest.study.plots import draw
from loadtest.study.progress import Progress
from loadtest.study.result import document, environment
from loadtest.study.search import JOURNAL, OtherStudy, Search, open_study
from loadtest.study.space import Space, batch_sizes, waits
from loadtest.study.system import Tuned
from loadtest.traffic.asking import Refused

INTERRUPTED = 130
NO_SETTING = 3
whole = partial(numbers, read=int, what="whole numbers from 1", least=1)


def _waits(text: str) -> tuple[float, ...]:
    return () if text == "auto" else numbers(text, duration_s, 0.0, "durations like 0,5ms,0.01")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--p99", required=True, callback=checked(duration_s), help="The latency that must be kept: 100ms, 2s.")
@served_and_sent
@click.option("--trials", type=click.IntRange(1), default=30, show_default=True, help="Settings to try.")
@click.option("--max-batch", type=click.IntRange(1), default=64, show_default=True, help="The largest MAX_BATCH_SIZE.")
@click.option(
    "--wait", default="auto", show_default=True, callback=checked(_waits), help="MAX_WAIT_TIMEs to try: 0,2ms,10ms."
)
@click.option(
    "--workers", default="1", show_default=True, callback=checked(whole), help="Numbers of workers, by comma."
)
@click.option(
    "--decode-threads",
    default="0",
    show_default=True,
    callback=checked(partial(numbers, read=int, what="whole numbers from 0", least=0)),
    help="DECODE_THREADS to try, by comma; 0: one per core, up to 4.",
)
@click.option(
    "--users",
    default="4,8,16,32,64,128,256",
    show_default=True,
    callback=checked(whole),
    help="The loads that each setting climbs through.",
)
@click.option("--seconds", default="4s", show_default=True, callback=checked(whole_seconds), help="For each load.")
@results("study-results")
def command(
    p99, model, weights, trials, max_batch, wait, workers, decode_threads, users, seconds, scenario, own, out, fresh
) -> None:
    """Find the settings that serve most within a latency: MAX_BATCH_SIZE, MAX_WAIT_TIME, workers, decode threads.

    Other settings come from the environment. The same command goes on with a study that was broken off; with a higher
    --trials it tries more.
    """
    if p99 <= 0:
        raise click.UsageError("--p99: expected more than 0")
    space = Space(batch_sizes(max_batch), wait or waits(p99), workers, decode_threads)
    served = Served(servers.at_home(model), servers.at_home(weights), workers[0], servers.from_shell())
    ladder = tuple(sorted(users))
    asked = {
        **{name: value for name, value in served._asdict().items() if name != "workers"},
        "p99_ms": p99 * 1000,
        "users": list(ladder),
        "seconds": seconds,
        "space": json.loads(json.dumps(space._asdict())),
        "scenario": scenario,
        "bodies": [str(path.resolve()) for path in own],
    }
    if fresh:
        (out / JOURNAL).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as a Ctrl-C: what was started is stopped
    try:
        result = _study(asked, space, served, trials, own, out)
    except (OtherStudy, ModelFailed, NoScenario, Refused, GeneratorFailed, ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo(f"\nstopped; what was tried is in {out}, and the same command goes on from there", err=True)
        sys.exit(INTERRUPTED)
    _tell(result, out)
    sys.exit(0 if result["recommended"] else NO_SETTING)


def _study(
    asked: dict[str, Any], space: Space, served: Served, trials: int, own: tuple[Path, ...], out: Path
) -> dict[str, Any]:
    study = open_study(out, asked)
    with Progress() as progress:
        progress.say(f"loading {served.model} to see what it takes")
        name, bodies = scenarios.choose(asked["scenario"], own, servers.describe(served))
        described = machine.describe()
        search = Search(study, space, tuple(asked["users"]), asked["p99_ms"], asked["seconds"])
        with Tuned(served, max(space.MAX_BATCH_SIZE), bodies, progress.say) as system:
            search.run(trials, system, progress)
            search.confirm(system, progress)
    return document(
        study,
        space,
        machine=described,
        sent=f"{name}, {len(bodies)} bodies",
        command=shlex.join(["python", "loadtest/study_params.py", *sys.argv[1:]]),
        finished_at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def _tell(result: dict[str, Any], out: Path) -> None:
    path = out / "study.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    written = [*draw(result, out), path]
    if result["recommended"]:
        block = out / "recommended.env"
        block.write_text(environment(result["recommended"]) + "\n")
        written.append(block)
    click.echo(report.text(result))
    click.echo("\n" + "\n".join(str(each) for each in (report.write(result, out), *written)))
