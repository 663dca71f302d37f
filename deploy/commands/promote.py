"""`smartbatch promote`"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence

import click

from smartbatch.deploy.lookup import open_connections, snapshot_of
from smartbatch.deploy.options import read_for_operator, setting_options
from smartbatch.deploy.rollout.changes import settled_table
from smartbatch.deploy.rollout.conditions import DEFAULTS, Judge, parse_condition
from smartbatch.deploy.rollout.plan import Plan, parse_duration, parse_steps
from smartbatch.deploy.rollout.progress import ProgressLines
from smartbatch.deploy.rollout.promotion import PromotionRun, Start, Subject
from smartbatch.deploy.rollout.versions import (
    check_versions,
    operator,
    shares_now,
    versions_of,
    weights_text,
)
from smartbatch.deploy.tables import console
from smartbatch.shared.broker.admin import routes
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.keys import ROUTES, parse_version
from smartbatch.shared.routing import Promotion, RoutingTable
from smartbatch.shared.settings import Settings

INTERRUPTED = 130  # exit code, as a shell's after Ctrl-C


@click.command("promote")
@setting_options("REDIS_URL")
@click.argument("model")
@click.argument("version")
@click.option(
    "--over", default="10m", show_default=True, metavar="DURATION", help="Time for all steps, like 90s or 1h."
)
@click.option("--steps", default="1,5,10,25,50,100", show_default=True, metavar="PERCENTS", help="Weights, in percent.")
@click.option(
    "--abort-if",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Go back if this holds: like errors>1%, p99>1.5x (of the versions before) or p99>200ms. Can be repeated; "
    f"default: {' and '.join(DEFAULTS)}.",
)
@click.option(
    "--min-requests",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Requests that the version must have had in a step before the next step.",
)
def command(
    model: str, version: str, over: str, steps: str, conditions: Sequence[str], min_requests: int, **options: str | None
) -> None:
    """Move the requests of MODEL to a VERSION step by step, and back if it is worse than the versions before.

    Every step lasts equally long, the last one too, in which the version gets all requests. The version is worse if a
    condition of --abort-if holds, if the versions before it were better in the same time, and if neither can be chance.
    Or if it has no worker any more. Then the routing table of before is written again and the exit code is 1.

    Ctrl-C leaves the weights as they are: the same command goes on from there, `smartbatch rollback` goes back.
    """
    judge = Judge([parse_condition(text) for text in conditions or DEFAULTS])
    plan = (parse_steps(steps), parse_duration(over), min_requests)
    sys.exit(asyncio.run(_run(read_for_operator(options), model, parse_version(version), plan, judge)))


async def _run(
    settings: Settings, name: str, version: int, plan: tuple[Sequence[float], float, int], judge: Judge
) -> int:
    async with open_connections(settings) as connections:
        subject, start, share = await _begin(connections, settings, name, version)
        steps, over_s, min_requests = plan
        # A promotion that was interrupted goes on from the share that it had reached.
        steps = [percent for percent in steps if percent > share * 100 + 1e-6] or [100.0]
        with ProgressLines(console(), version) as progress:
            run = PromotionRun(subject, start, Plan(steps, over_s, min_requests), judge, progress, operator())
            promotion = await _until_signal(run)
    return _report(name, promotion, start.before)


def _report(name: str, promotion: Promotion, before: RoutingTable) -> int:
    """Say how it ended, and return the exit code."""
    version = promotion.version
    if promotion.state == "done":
        click.echo(f"done: version {version} of {name} gets all requests; `smartbatch rollback {name}` goes back")
        return 0
    if promotion.state == "aborted":
        click.echo(f"smartbatch: promotion of {name} to version {version} aborted: {promotion.reason}", err=True)
        click.echo(f"smartbatch: the routing table of before is in force again: {weights_text(before)}", err=True)
        return 1
    on, back = f"`smartbatch promote {name} {version}` goes on", f"`smartbatch rollback {name}` goes back"
    click.echo(f"paused; the weights stay as they are. {on}, {back}", err=True)
    return INTERRUPTED


async def _begin(connections: Connections, settings: Settings, name: str, version: int) -> tuple[Subject, Start, float]:
    """Return what is promoted from where, and the share of the requests that the version has already.

    Raises SmartBatchError if there is nothing to promote.
    """
    table = await routes.read(connections.of(ROUTES), name) or RoutingTable()
    models = await versions_of(connections, settings, name, {version, *table.weights})
    snapshots = {each: await snapshot_of(connections, model) for each, model in models.items()}
    check_versions(name, [version], models, snapshots)
    if version in table.draining:
        raise SmartBatchError(f"version {version} of {name} is being unloaded")
    if not snapshots[version].ready_workers:
        raise SmartBatchError(f"version {version} of {name} has no ready worker; start one before promoting it")
    shares = shares_now(table, snapshots)
    share = shares.pop(version, 0.0)
    if not shares:
        raise SmartBatchError(
            f"version {version} of {name} gets all requests already; give them to another version before, as in "
            f"`smartbatch route {name} 1=100`"
        )
    before = settled_table(table, await routes.history(connections.of(ROUTES), name, routes.MAX_CHANGES))
    return Subject(connections, name, version, models), Start(table, before, shares, snapshots), share


async def _until_signal(run: PromotionRun) -> Promotion:
    """Run to the end, or until SIGINT or SIGTERM. A second signal ends the process at once."""
    loop, signals = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        for each in signals:
            loop.remove_signal_handler(each)
        run.stop()

    for each in signals:
        loop.add_signal_handler(each, stop)
    return await run.run()
