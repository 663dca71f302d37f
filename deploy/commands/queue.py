"""`smartbatch queue`"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from smartbatch.deploy.entry_view import print_fields, printable, when
from smartbatch.deploy.lookup import find_entries, models_named, open_client
from smartbatch.deploy.options import json_option, model_option, read, save_option, setting_options
from smartbatch.deploy.tables import console, table
from smartbatch.shared.broker.admin import registry
from smartbatch.shared.broker.admin.entries import Entries, Seen
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.settings import Settings


class _ListByDefault(click.Group):
    """`smartbatch queue` alone, or with options only, lists."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group("queue", cls=_ListByDefault)
def command() -> None:
    """Look at what waits and what runs, and take it back. Without a subcommand: list.

    Reads and writes only Redis, so it works next to any deployment. An ID is an entry's or a request's; one that isn't
    there ends it with exit code 2, before anything is changed.
    """


@command.command("list")
@setting_options("REDIS_URL")
@model_option
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="Entries to list of each kind.")
@json_option
def list_(name: str | None, limit: int, as_json: bool, **options: str | None) -> None:
    """List running and waiting entries, the oldest first, and the workers."""
    asyncio.run(_list(read(options), name, limit, as_json))


@command.command("show")
@setting_options("REDIS_URL")
@click.argument("entry_id", metavar="ID")
@model_option
@save_option
@json_option
def show(entry_id: str, name: str | None, file: Path | None, as_json: bool, **options: str | None) -> None:
    """Show one entry and what it carries."""
    asyncio.run(_show(read(options), name, entry_id, file, as_json))


@command.command("cancel")
@setting_options("REDIS_URL", "REPLY_TTL")
@click.argument("entry_ids", metavar="ID…", nargs=-1, required=True)
@model_option
@json_option
def cancel(entry_ids: Sequence[str], name: str | None, as_json: bool, **options: str | None) -> None:
    """Take entries back, waiting or running.

    Each one's client gets an error at once: status 500 with the code taken_back. A batch that is on the device already
    goes on, and its result for this entry is dropped. Exit code 1 if one was answered before it could be taken.
    """
    sys.exit(asyncio.run(_cancel(read(options), name, entry_ids, as_json)))


# --- what they do


async def _list(settings: Settings, name: str | None, limit: int, as_json: bool) -> None:
    screen = console()
    async with open_client(settings) as client:
        found = [
            (await registry.snapshot(client, model), await Entries(client, model).look(limit))
            for model in await models_named(client, name)
        ]
    if as_json:
        click.echo(json.dumps([_model(snapshot, entries) for snapshot, entries in found], indent=2))
        return
    if not found:
        screen.print("no model has been announced yet")
    for snapshot, entries in found:
        _print(screen, snapshot, entries)


async def _show(settings: Settings, name: str | None, entry_id: str, file: Path | None, as_json: bool) -> None:
    from smartbatch.deploy.payloads import told_of_payload

    async with open_client(settings) as client:
        [(model, seen)] = await find_entries(client, name, [entry_id])
        try:
            packed, gone = await Entries(client, model).payload(seen), "gone"
        except BrokerUnavailable as error:  # a user of Redis who may look at streams, and not at bodies
            packed, gone = None, f"not to be read: {error}"
    told = {"model": model, **_told(seen), **_more_told(seen), **told_of_payload(packed, file, gone)}
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        print_fields(told)


async def _cancel(settings: Settings, name: str | None, entry_ids: Sequence[str], as_json: bool) -> int:
    told: list[dict[str, Any]] = []
    async with open_client(settings) as client:
        for model, seen in await find_entries(client, name, entry_ids):
            taken = await Entries(client, model).take_back(seen, settings.reply_ttl)
            told.append({"model": model, **_told(seen), "taken_back": taken})
            if not as_json:
                outcome = "taken back; its client has been told" if taken else "was answered, or taken back, meanwhile"
                click.echo(f"{seen.entry.entry_id}  {outcome}")
    if as_json:
        click.echo(json.dumps(told, indent=2))
    return int(not all(each["taken_back"] for each in told))


# --- words


def _model(snapshot: Snapshot, entries: list[Seen]) -> dict[str, Any]:
    return {
        "model": snapshot.model,
        "waiting": snapshot.waiting,
        "running": snapshot.running,
        "oldest_wait_s": snapshot.oldest_wait_s,
        "open_bytes": snapshot.open_bytes,
        "dead_letters": snapshot.dead,
        "entries": [_told(seen) for seen in entries],
    }


def _told(seen: Seen) -> dict[str, Any]:
    entry = seen.entry
    return {
        "entry": entry.entry_id,
        "request": entry.id,
        "age_s": round(seen.age_s, 3),
        "rows": entry.rows,
        "bytes": entry.bytes,
        "kind": entry.kind,
        "worker": seen.worker or None,
        "deliveries": entry.deliveries,
    }


def _more_told(seen: Seen) -> dict[str, Any]:
    entry = seen.entry
    told = {
        "admitted": when(entry.t_ms),
        "timeout_s": entry.timeout_ms / 1000,
        "gateway": entry.gateway,
        "trace": entry.trace,
    }
    return {**told, "unreadable": entry.malformed} if entry.malformed else told


def _print(screen: Console, snapshot: Snapshot, entries: list[Seen]) -> None:
    screen.print(
        Text(snapshot.model, "bold"),
        f" waiting {snapshot.waiting}, running {snapshot.running}, oldest wait {snapshot.oldest_wait_s:.2f} s, "
        f"{snapshot.open_bytes:,} bytes in flight, {snapshot.dead} dead letters",
    )
    workers = table("worker", "state", "device", "batches", "rows", "now")
    for worker_id, report in snapshot.workers.items():
        now = f"{report['batch_rows']} rows for {report['batch_s']} s" if report.get("batch") else report["progress"]
        workers.add_row(worker_id, report["state"], report["device"], report["batches"], report["rows"], now)
    screen.print(workers)
    if not entries:
        return
    rows = table("entry", "request", "age s", "rows", "bytes", "kind", "worker", "deliveries")
    for seen in entries:
        told = _told(seen) | {"age_s": f"{seen.age_s:.2f}", "worker": seen.worker or "waiting"}
        told["deliveries"] = told["deliveries"] or ""
        rows.add_row(*[printable(str(value)) for value in told.values()])
    screen.print(rows)
    if (more := snapshot.waiting + snapshot.running - len(entries)) > 0:
        screen.print(f" … and about {more} more (--limit)")
