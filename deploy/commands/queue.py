"""`smartbatch queue`"""

from __future__ import annotations

import asyncio

import click
from rich.console import Console

from deploy.options import read, setting_options
from deploy.tables import console, table
from shared.broker import registry
from shared.broker.connection import check, connect
from shared.broker.entries import Seen, look
from shared.broker.registry import Snapshot


@click.command("queue")
@setting_options("REDIS_URL")
@click.option("--name", help="Only this model; by default all that are known.")
@click.option("--limit", default=20, show_default=True, help="Entries to list of each kind.")
def command(name: str | None, limit: int, **options: str | None) -> None:
    """Show what waits and what runs, and on which worker. Reads only Redis, so it works next to any deployment."""
    asyncio.run(_show(read(options).broker_url, name, limit))


async def _show(url: str, name: str | None, limit: int) -> None:
    await check(url)
    client = connect(url)
    screen = console()
    try:
        names = [name] if name else sorted(await registry.models(client))
        if not names:
            screen.print("no model has been announced yet")
        for model in names:
            _print(screen, await registry.snapshot(client, model), await look(client, model, limit))
    finally:
        await client.aclose()


def _print(screen: Console, snapshot: Snapshot, entries: list[Seen]) -> None:
    screen.print(
        f"[bold]{snapshot.model}[/]  waiting {snapshot.waiting}, running {snapshot.running}, "
        f"oldest wait {snapshot.oldest_wait_s:.2f} s, {snapshot.open_bytes:,} bytes open, {snapshot.dead} dead letters"
    )
    workers = table("worker", "state", "device", "batches", "rows", "now")
    for worker_id, report in snapshot.workers.items():
        now = f"{report['batch_rows']} rows for {report['batch_s']} s" if report.get("batch") else report["progress"]
        workers.add_row(worker_id, report["state"], report["device"], report["batches"], report["rows"], now)
    screen.print(workers)
    if entries:
        waiting = table("entry", "request", "age s", "rows", "bytes", "kind", "worker", "deliveries")
        for seen in entries:
            entry = seen.entry
            where = (seen.worker, str(entry.deliveries)) if seen.worker else ("waiting", "")
            numbers = (f"{seen.age_s:.2f}", str(entry.rows), str(entry.bytes))
            waiting.add_row(entry.entry_id, entry.id, *numbers, entry.kind, *where)
        screen.print(waiting)
