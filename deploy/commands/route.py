"""`smartbatch route`"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import click
import msgspec

from smartbatch.deploy.lookup import open_connections, snapshot_of
from smartbatch.deploy.options import json_option, read_for_operator, setting_options
from smartbatch.deploy.rollout.changes import RouteChange
from smartbatch.deploy.rollout.versions import check_versions, operator, shares_now, versions_of, warn_of_workers
from smartbatch.deploy.rollout.view import render, render_history, view
from smartbatch.deploy.tables import console
from smartbatch.shared.broker.admin import routes
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.keys import ROUTES, check_model_name, parse_version
from smartbatch.shared.routing import RoutingTable, parse_weights
from smartbatch.shared.settings import Settings

HISTORY = 50  # changes that are shown


@click.command("route")
@setting_options("REDIS_URL")
@click.argument("model")
@click.argument("weights", nargs=-1, metavar="[VERSION=WEIGHT]...")
@click.option("--sticky", metavar="HEADER", help="Requests with the same value of this header go to the same version.")
@click.option("--no-sticky", is_flag=True, help="Choose a version for each request.")
@click.option(
    "--shadow", metavar="VERSION", help="Send copies of requests to this version; its answers are thrown away."
)
@click.option("--shadow-share", type=float, metavar="SHARE", help="Copy this share of the requests, up to 1 (default).")
@click.option("--no-shadow", is_flag=True, help="Send no more copies.")
@click.option("--reset", is_flag=True, help="Delete the table: the highest version that is ready gets all requests.")
@click.option("--force", is_flag=True, help="Allow versions that nobody has announced yet.")
@click.option("--history", "show_history", is_flag=True, help="Show who changed the table, when and how.")
@json_option
def command(model: str, weights: Sequence[str], force: bool, show_history: bool, as_json: bool, **options) -> None:
    """Show or change which versions of MODEL get how many of the requests that name no version.

    As in `smartbatch route m 1=90 2=10`: weights are relative, and a version that isn't named gets none. Without a
    change: show the table, and how each version did in the last minute. Gateways follow a change within a second.
    """
    change = _change(weights, options)
    settings = read_for_operator({"redis_url": options["redis_url"]})
    if show_history and change != RouteChange():
        raise click.UsageError("--history can't be combined with a change")
    asyncio.run(_history(settings, model, as_json) if show_history else _run(settings, model, change, force, as_json))


def _change(weights: Sequence[str], options: Mapping) -> RouteChange:
    for name in ("sticky", "shadow"):
        if options[name] is not None and options[f"no_{name}"]:
            raise click.UsageError(f"--{name} can't be combined with --no-{name}")
    change = RouteChange(
        weights=parse_weights(weights) if weights else None,
        sticky="" if options["no_sticky"] else options["sticky"],
        shadow=0
        if options["no_shadow"]
        else parse_version(options["shadow"])
        if options["shadow"] is not None
        else None,
        shadow_share=options["shadow_share"],
        reset=options["reset"],
    )
    change.check()
    return change


async def _run(settings: Settings, name: str, change: RouteChange, force: bool, as_json: bool) -> None:
    async with open_connections(settings) as connections:
        table = await routes.read(connections.of(ROUTES), name) or RoutingTable()
        models = await versions_of(connections, settings, name, {*change.versions, *table.weights}, force=force)
        snapshots = {version: await snapshot_of(connections, model) for version, model in models.items()}
        if change != RouteChange():
            if not force:
                check_versions(name, change.versions, models, snapshots)
            table = await _write(connections, name, change, snapshots)
        shown = view(name, table, snapshots)
        click.echo(msgspec.json.encode(shown)) if as_json else console().print(render(shown))


async def _write(
    connections: Connections, name: str, change: RouteChange, snapshots: Mapping[int, Snapshot]
) -> RoutingTable:
    def apply(table: RoutingTable) -> RoutingTable | None:
        changed = change.apply(table)
        if changed and changed.shadow in shares_now(changed, snapshots):
            raise SmartBatchError(f"version {changed.shadow} can't be the shadow, because it gets requests")
        return changed

    written = await routes.update(connections.of(ROUTES), name, apply, who=operator(), what=change.what)
    table = written or RoutingTable()
    warn_of_workers(name, table, snapshots)
    return table


async def _history(settings: Settings, name: str, as_json: bool) -> None:
    check_model_name(name)
    async with open_connections(settings) as connections:
        changes = await routes.history(connections.of(ROUTES), name, HISTORY)
    if as_json:
        click.echo(msgspec.json.encode(changes))
    else:
        console().print(render_history(changes) if changes else f"the routing table of {name} was never changed")
