"""`smartbatch limits`"""

from __future__ import annotations

import asyncio
from contextlib import closing

import click

from smartbatch.deploy.options import read, setting_options
from smartbatch.deploy.tables import console, table
from smartbatch.shared.broker.admin import registry
from smartbatch.shared.broker.connection.check import check
from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection
from smartbatch.shared.broker.queue.live_limits import MAX_WAIT_S, LiveLimits, reset_limits, set_limits
from smartbatch.shared.keys import Keys


@click.command("limits")
@setting_options("REDIS_URL", "MODEL_PATH", "MODEL_NAME")
@click.option(
    "--max-batch-size", type=click.IntRange(1), help="Maximum rows per batch, up to the worker's own MAX_BATCH_SIZE."
)
@click.option(
    "--max-wait-time", type=click.FloatRange(0, MAX_WAIT_S), help="Maximum wait of the oldest entry, in seconds."
)
@click.option("--reset", is_flag=True, help="Restore the limits that each worker was started with.")
def command(max_batch_size: int | None, max_wait_time: float | None, reset: bool, **options: str | None) -> None:
    """Show or change MAX_BATCH_SIZE and MAX_WAIT_TIME of running workers. Without options: show.

    A change applies to all workers of the model within a second, and to workers that start later, until --reset.
    """
    limits = LiveLimits(max_batch_size, max_wait_time)
    if reset and limits != LiveLimits():
        raise click.UsageError("--reset can't be combined with other limits")
    settings = read(options)
    asyncio.run(_run(settings.broker_url, settings.model, limits, reset))


async def _run(url: str, model: str, limits: LiveLimits, reset: bool) -> None:
    await check(url)
    keys = Keys(model)
    with closing(MultiplexedConnection(url)) as connection:
        if reset:
            await reset_limits(connection, keys)
        elif limits != LiveLimits():
            await set_limits(connection, keys, limits)
        else:
            await _show(connection, model)


async def _show(connection: MultiplexedConnection, model: str) -> None:
    screen = console()
    workers = (await registry.snapshot(connection, model)).workers
    shown = table("worker", "state", "MAX_BATCH_SIZE", "MAX_WAIT_TIME")
    for worker_id, report in workers.items():
        limits = (report.get(name, "") for name in ("max_batch_size", "max_wait_time"))
        shown.add_row(worker_id, report.get("state", ""), *limits)
    screen.print(shown if workers else f"no live workers of {model}")
