"""`smartbatch limits`"""

from __future__ import annotations

import asyncio

import click

from smartbatch.deploy.options import read, setting_options
from smartbatch.deploy.tables import console, table
from smartbatch.shared.broker.admin import registry
from smartbatch.shared.broker.connection.client import check, connect
from smartbatch.shared.broker.queue.live_limits import MOST_WAIT_S, LiveLimits, reset_limits, set_limits
from smartbatch.shared.keys import Keys


@click.command("limits")
@setting_options("REDIS_URL", "MODEL_PATH", "MODEL_NAME")
@click.option(
    "--max-batch-size", type=click.IntRange(1), help="Rows in one batch; never more than a worker began with."
)
@click.option("--max-wait-time", type=click.FloatRange(0, MOST_WAIT_S), help="Seconds that the oldest entry waits.")
@click.option("--reset", is_flag=True, help="Back to what each worker was started with.")
def command(max_batch_size: int | None, max_wait_time: float | None, reset: bool, **options: str | None) -> None:
    """Change how workers batch while they serve, without loading the model again; with neither option, show it.

    What is set holds for all workers of the model, within a second, and for those that start later, until --reset.
    """
    limits = LiveLimits(max_batch_size, max_wait_time)
    if reset and limits != LiveLimits():
        raise click.UsageError("--reset goes back to what workers were started with; give it alone")
    settings = read(options)
    asyncio.run(_run(settings.broker_url, settings.model, limits, reset))


async def _run(url: str, model: str, limits: LiveLimits, reset: bool) -> None:
    await check(url)
    client = connect(url)
    keys = Keys(model)
    try:
        if reset:
            await reset_limits(client, keys)
        elif limits != LiveLimits():
            await set_limits(client, keys, limits)
        else:
            await _show(client, model)
    finally:
        await client.aclose()


async def _show(client, model: str) -> None:
    screen = console()
    workers = (await registry.snapshot(client, model)).workers
    shown = table("worker", "state", "MAX_BATCH_SIZE", "MAX_WAIT_TIME")
    for worker_id, report in workers.items():
        limits = (report.get(name, "") for name in ("max_batch_size", "max_wait_time"))
        shown.add_row(worker_id, report.get("state", ""), *limits)
    screen.print(shown if workers else f"no worker serves {model} now")
