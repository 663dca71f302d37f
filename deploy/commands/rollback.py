"""`smartbatch rollback`"""

from __future__ import annotations

import asyncio

import click

from smartbatch.deploy.lookup import open_connections, snapshot_of
from smartbatch.deploy.options import read_for_operator, setting_options
from smartbatch.deploy.rollout.changes import earlier_table, going_back, table_of
from smartbatch.deploy.rollout.versions import operator, versions_of, warn_of_workers, weights_text
from smartbatch.shared.broker.admin import routes
from smartbatch.shared.errors import RouteChanged
from smartbatch.shared.keys import ROUTES
from smartbatch.shared.routing import RoutingTable
from smartbatch.shared.settings import Settings


@click.command("rollback")
@setting_options("REDIS_URL")
@click.argument("model")
@click.option("--to", type=click.IntRange(1), metavar="REVISION", help="A revision that `route --history` shows.")
def command(model: str, to: int | None, **options: str | None) -> None:
    """Write the routing table that MODEL had before the last change of its weights.

    A promotion counts as one change, whether it has ended or not. One that was aborted has gone back already.
    A second rollback undoes the first.
    """
    asyncio.run(_run(read_for_operator(options), model, to))


async def _run(settings: Settings, name: str, to: int | None) -> None:
    async with open_connections(settings) as connections:
        connection = connections.of(ROUTES)
        present = await routes.read(connection, name) or RoutingTable()
        changes = await routes.history(connection, name, routes.MAX_CHANGES)
        earlier = table_of(to, changes) if to else earlier_table(present, changes)

        def apply(table: RoutingTable) -> RoutingTable:
            if table.revision != present.revision:
                raise RouteChanged(f"the routing table of {name} was changed by somebody else in the meantime")
            return going_back(table, earlier)

        await routes.update(connection, name, apply, who=operator(), what=f"rollback{f' --to {to}' if to else ''}")
        models = await versions_of(connections, settings, name, earlier.weights, force=True)
        snapshots = {version: await snapshot_of(connections, model) for version, model in models.items()}
    warn_of_workers(name, earlier, snapshots)
    click.echo(f"{name}: {weights_text(earlier)}")
