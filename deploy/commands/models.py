"""`smartbatch models`"""

from __future__ import annotations

import asyncio

import click
from rich.console import Console
from rich.table import Table

from deploy.options import read, setting_options
from shared.broker import registry
from shared.broker.connection import connect
from shared.errors import BrokerUnavailable


@click.command("models")
@setting_options("REDIS_URL")
@click.option("--all", "everything", is_flag=True, help="Also list every torchvision classifier by name.")
def command(everything: bool, **options: str | None) -> None:
    """List what is being served now, and what MODEL_PATH can be."""
    console = Console()
    try:
        asyncio.run(_served(console, read(options).redis_url))
    except BrokerUnavailable:
        console.print("[dim]no broker to ask what is being served (REDIS_URL)[/]")
    from worker.models import listing

    table = Table("MODEL_PATH", "what it is", title="can be served", box=None, title_justify="left")
    entries = listing()
    shown = entries if everything else [entry for entry in entries if not entry[1].startswith("torchvision")]
    for path, description in shown:
        table.add_row(path, description)
    if len(shown) < len(entries):
        table.add_row(f"… and {len(entries) - len(shown)} more", "torchvision image classifiers by name (--all)")
    console.print(table)


async def _served(console: Console, url: str) -> None:
    client = connect(url)
    try:
        models = await registry.models(client)
        snapshots = {name: await registry.snapshot(client, name) for name in models}
    finally:
        await client.aclose()
    table = Table("name", "MODEL_PATH", "takes", "row", "workers ready", title="served", box=None, title_justify="left")
    for name, info in models.items():
        takes = info.input
        row = f"{takes.dtype or 'any'} {list(takes.shape) if takes.shape else 'any shape'}"
        table.add_row(name, info.path, ", ".join(takes.kinds), row, str(len(snapshots[name].ready_workers)))
    console.print(table)
