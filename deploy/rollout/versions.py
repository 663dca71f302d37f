"""The versions of one model as an operator's tool sees them, and what it may do to the routing table."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterable, Mapping

import click

from smartbatch.deploy.lookup import Model, models_named
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.errors import UnknownModel
from smartbatch.shared.keys import check_model_name, model_id, split_model_id
from smartbatch.shared.routing import RoutingTable
from smartbatch.shared.settings import Settings


def operator() -> str:
    """Return who runs this process, for the history: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


async def versions_of(
    connections: Connections, settings: Settings, name: str, more: Iterable[int] = (), *, force: bool = False
) -> dict[int, Model]:
    """Return the announced versions of a model and those in `more`, in order.

    Raises UnknownModel if no version is announced, unless `force`.
    """
    check_model_name(name)
    announced = await models_named(connections, settings, None)
    found = {split_model_id(model.name)[1]: model for model in announced if split_model_id(model.name)[0] == name}
    if not found and not force:
        names = ", ".join(sorted({split_model_id(model.name)[0] for model in announced})) or "none"
        raise UnknownModel(f"model {name!r} not found; available: {names}")
    for version in set(more) - found.keys():
        [found[version]] = await models_named(connections, settings, model_id(name, version))
    return dict(sorted(found.items()))


def check_versions(name: str, wanted: Iterable[int], models: Mapping[int, Model], snapshots: Mapping[int, Snapshot]):
    """Raise UnknownModel for a version that nobody announced and that has no worker."""
    known = [version for version, model in models.items() if model.info or snapshots[version].workers]
    for version in wanted:
        if version not in known:
            raise UnknownModel(f"{name} has no version {version}; expected one of {', '.join(map(str, known))}")


def ready_versions(snapshots: Mapping[int, Snapshot]) -> list[int]:
    return [version for version, snapshot in snapshots.items() if snapshot.ready_workers]


def shares_now(table: RoutingTable, snapshots: Mapping[int, Snapshot]) -> dict[int, float]:
    """Return which share of the requests each version gets now; without any ready worker, which it would get."""
    ready = ready_versions(snapshots)
    return table.shares(ready) or table.shares(snapshots)


def warn_of_workers(name: str, table: RoutingTable, snapshots: Mapping[int, Snapshot]) -> None:
    """Say on stderr which versions have a weight or get copies, but have no ready worker."""
    for version in (
        *(each for each, weight in table.weights.items() if weight),
        *([table.shadow] if table.shadow else ()),
    ):
        if version not in snapshots or not snapshots[version].ready_workers:
            click.echo(f"smartbatch: version {version} of {name} has no ready worker", err=True)


def weights_text(table: RoutingTable) -> str:
    if not table.weights:
        return "no weights: the highest version that is ready gets all requests"
    return " ".join(f"{version}={weight:g}" for version, weight in table.weights.items())
