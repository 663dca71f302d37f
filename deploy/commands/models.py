"""`smartbatch models`"""

from __future__ import annotations

import asyncio

import click
from rich.console import Console

from smartbatch.deploy.options import read, setting_options
from smartbatch.deploy.tables import console, table
from smartbatch.shared.broker.admin import registry
from smartbatch.shared.broker.connection.client import connect
from smartbatch.shared.errors import BrokerUnavailable


@click.command("models")
@setting_options("REDIS_URL")
@click.option("--all", "everything", is_flag=True, help="Also list every torchvision classifier by name.")
def command(everything: bool, **options: str | None) -> None:
    """List what is being served now, and what MODEL_PATH can be."""
    screen = console()
    try:
        asyncio.run(_served(screen, read(options).broker_url))
    except BrokerUnavailable:
        screen.print("no broker to ask what is being served (REDIS_URL)", style="dim")
    from smartbatch.worker.models import listing

    servable = table("MODEL_PATH", "what it is", title="can be served")
    entries = listing()
    shown = entries if everything else [entry for entry in entries if not entry[1].startswith("torchvision")]
    for path, description in shown:
        servable.add_row(path, description)
    if len(shown) < len(entries):
        servable.add_row(f"… and {len(entries) - len(shown)} more", "torchvision image classifiers by name (--all)")
    screen.print(servable)


async def _served(screen: Console, url: str) -> None:
    client = connect(url)
    try:
        models = await registry.models(client)
        snapshots = {name: await registry.snapshot(client, name) for name in models}
    finally:
        await client.aclose()
    served = table("name", "MODEL_PATH", "takes", "row", "workers ready", "variant", title="served")
    for name, info in models.items():
        takes = info.input
        row = f"{takes.dtype or ''} {list(takes.shape) if takes.shape else ''}".strip() or "any"
        ready = snapshots[name].ready_workers
        variants = {snapshots[name].workers[worker_id].get("variant", "none") for worker_id in ready}
        served.add_row(name, info.path, ", ".join(takes.kinds), row, str(len(ready)), ", ".join(sorted(variants)))
    screen.print(served)
