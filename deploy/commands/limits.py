"""`smartbatch limits`"""

from __future__ import annotations

import asyncio
import os

import click

from smartbatch.deploy.lookup import Model, Partition, models_named, open_connections, read_each, snapshot_of
from smartbatch.deploy.options import read_for_operator, setting_options
from smartbatch.deploy.tables import console, table
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.broker.queue.live_limits import FIELDS, MAX_WAIT_S, LiveLimits, reset_limits, set_limits
from smartbatch.shared.errors import BrokerUnavailable, SmartBatchError
from smartbatch.shared.keys import Keys
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.settings import Settings


@click.command("limits")
@setting_options("REDIS_URL", "MODEL_PATH", "MODEL_NAME", "MODEL_VERSION")
@click.option(
    "--max-batch-size", type=click.IntRange(1), help="Maximum rows per batch, up to the worker's own MAX_BATCH_SIZE."
)
@click.option(
    "--max-wait-time", type=click.FloatRange(0, MAX_WAIT_S), help="Maximum wait of the oldest entry, in seconds."
)
@click.option("--reset", is_flag=True, help="Restore the limits that each worker was started with.")
def command(max_batch_size: int | None, max_wait_time: float | None, reset: bool, **options: str | None) -> None:
    """Show or change MAX_BATCH_SIZE and MAX_WAIT_TIME of running workers. Without a change: show.

    A change applies to all workers of the model, in all its partitions, within a second, and to workers that start
    later, until --reset. --name, --model, MODEL_NAME or MODEL_PATH selects the model; that is needed for a change if
    several are served.
    """
    limits = LiveLimits(max_batch_size, max_wait_time)
    if reset and limits != LiveLimits():
        raise click.UsageError("--reset can't be combined with other limits")
    settings = read_for_operator(options)
    selected = any(options[name] or os.environ.get(name.upper()) for name in ("model_path", "model_name"))
    asyncio.run(_run(settings, settings.model_id if selected else None, limits, reset))


async def _run(settings: Settings, name: str | None, limits: LiveLimits, reset: bool) -> None:
    async with open_connections(settings) as connections:
        models = await models_named(connections, settings, name)
        known = [(model, await snapshot_of(connections, model)) for model in models]
        served = [(model, snapshot) for model, snapshot in known if snapshot.workers]
        if not reset and limits == LiveLimits():
            _show([snapshot for _, snapshot in served], name)
            return
        model, snapshot = _choose(served or known)
        if not reset:
            _check(limits, snapshot, model.info)
        await _change(connections, model, limits)
        click.echo(_outcome(limits, snapshot))


async def _change(connections: Connections, model: Model, limits: LiveLimits) -> None:
    """Set or reset the limits in all partitions. Raises BrokerUnavailable unless all could be changed."""

    async def change(partition: Partition) -> None:
        keys = Keys(partition.tag)
        if limits == LiveLimits():
            await reset_limits(connections.of(keys.limits), keys)
        else:
            await set_limits(connections.of(keys.limits), keys, limits)

    _, away = await read_each(model.partitions, change)
    if away:
        tags = ", ".join(away)
        raise BrokerUnavailable(f"changed, but not in {tags}, whose broker is away; run this again once it is back")


def _choose(found: list[tuple[Model, Snapshot]]) -> tuple[Model, Snapshot]:
    """Return the one model to change."""
    if not found:
        raise SmartBatchError("no model is served; select one that workers will serve later with --name")
    if len(found) > 1:
        raise SmartBatchError(
            f"several models are served ({', '.join(model.name for model, _ in found)}); select one with --name"
        )
    return found[0]


def _check(limits: LiveLimits, snapshot: Snapshot, info: ModelInfo | None) -> None:
    """Raise SmartBatchError for more rows than the running workers were started with."""
    if info and snapshot.workers and limits.max_batch_size and limits.max_batch_size > info.max_batch_size:
        raise SmartBatchError(
            f"--max-batch-size: {info.max_batch_size} is the most that the workers of {snapshot.model} can take, as "
            f"they were started with MAX_BATCH_SIZE={info.max_batch_size}; got {limits.max_batch_size}"
        )


def _outcome(limits: LiveLimits, snapshot: Snapshot) -> str:
    workers = len(snapshot.workers)
    applied = {name.upper(): getattr(limits, name) for name in FIELDS if getattr(limits, name) is not None}
    what = ", ".join(f"{name}={value:g}" for name, value in applied.items()) or "the limits that each was started with"
    whom = f"{workers} worker{'s' * (workers != 1)} within a second" if workers else "no worker now"
    return f"{snapshot.model}: {what} for {whom}, and for workers that start later"


def _show(served: list[Snapshot], name: str | None) -> None:
    shown = table("model", "worker", "state", "MAX_BATCH_SIZE", "MAX_WAIT_TIME")
    for snapshot in served:
        for worker_id, report in snapshot.workers.items():
            limits = (report.get(field, "") for field in FIELDS)
            shown.add_row(snapshot.model, worker_id, report.get("state", ""), *limits)
    console().print(shown if served else f"no live workers{f' of {name}' if name else ''}")
