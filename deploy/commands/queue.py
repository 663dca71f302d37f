"""`smartbatch queue`"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.text import Text

from smartbatch.deploy.entry_view import print_fields, printable, when
from smartbatch.deploy.lookup import (
    Matches,
    Partition,
    entries_of,
    find_entries,
    model_fields,
    models_named,
    oldest_entries,
    open_connections,
    snapshot_of,
)
from smartbatch.deploy.options import json_option, model_option, read_for_operator, save_option, setting_options
from smartbatch.deploy.tables import console, partition_table, table
from smartbatch.gateway.monitoring.model_view import partition_stats
from smartbatch.shared.broker.admin.entries import EntryStatus
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.keys import Keys
from smartbatch.shared.settings import Settings


class _ListByDefault(click.Group):
    """Without a subcommand, `smartbatch queue` runs `list`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group("queue", cls=_ListByDefault)
def command() -> None:
    """List, inspect and cancel queued requests. Without a subcommand: list.

    Only Redis is needed, so this works with any deployment. ID is the ID of an entry or of a request; an unknown ID
    ends the command with exit code 2 before anything is changed.
    """


@command.command("list")
@setting_options("REDIS_URL")
@model_option
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Maximum number of running and of waiting requests.",
)
@json_option
def list_(name: str | None, limit: int, as_json: bool, **options: str | None) -> None:
    """List running and waiting requests, oldest first, and the workers."""
    asyncio.run(_list(read_for_operator(options), name, limit, as_json))


@command.command("show")
@setting_options("REDIS_URL")
@click.argument("entry_id", metavar="ID")
@model_option
@save_option
@json_option
def show(entry_id: str, name: str | None, file: Path | None, as_json: bool, **options: str | None) -> None:
    """Show one request and its payload."""
    asyncio.run(_show(read_for_operator(options), name, entry_id, file, as_json))


@command.command("cancel")
@setting_options("REDIS_URL", "REPLY_TTL")
@click.argument("entry_ids", metavar="ID…", nargs=-1, required=True)
@model_option
@json_option
def cancel(entry_ids: Sequence[str], name: str | None, as_json: bool, **options: str | None) -> None:
    """Cancel waiting or running requests.

    The client gets an error at once: status 500 with the code cancelled_by_operator. A batch that is already on the
    device continues, and its result for this request is discarded. Exit code 1 if a request was answered before it
    could be cancelled.
    """
    sys.exit(asyncio.run(_cancel(read_for_operator(options), name, entry_ids, as_json)))


# --- implementation


async def _list(settings: Settings, name: str | None, limit: int, as_json: bool) -> None:
    screen = console()
    async with open_connections(settings) as connections:
        found = [
            (await snapshot_of(connections, model), await oldest_entries(connections, model, limit))
            for model in await models_named(connections, settings, name)
        ]
    if as_json:
        click.echo(json.dumps([_model(snapshot, entries) for snapshot, entries in found], indent=2))
        return
    if not found:
        screen.print("no model has been announced yet")
    for snapshot, entries in found:
        _print(screen, snapshot, entries)


async def _show(settings: Settings, name: str | None, entry_id: str, file: Path | None, as_json: bool) -> None:
    from smartbatch.deploy.payloads import payload_fields

    async with open_connections(settings) as connections:
        [(partition, status)] = await find_entries(connections, settings, name, [entry_id])
        try:
            packed, missing = await entries_of(connections, partition).payload(status), "deleted"
        except BrokerUnavailable as error:  # this Redis user may read the stream, but not external payloads
            packed, missing = None, f"not readable: {error}"
    fields = {**partition.fields, **_summary(status), **_details(status), **payload_fields(packed, file, missing)}
    if as_json:
        click.echo(json.dumps(fields, indent=2))
    else:
        print_fields(fields)


async def _cancel(settings: Settings, name: str | None, entry_ids: Sequence[str], as_json: bool) -> int:
    outcomes: list[dict[str, Any]] = []
    async with open_connections(settings) as connections:
        for partition, status in await find_entries(connections, settings, name, entry_ids):
            cancelled = await entries_of(connections, partition).cancel(status, settings.reply_ttl)
            outcomes.append({**partition.fields, **_summary(status), "cancelled": cancelled})
            if not as_json:
                outcome = "cancelled" if cancelled else "not cancelled: already answered or cancelled"
                click.echo(f"{status.entry.entry_id}  {outcome}")
    if as_json:
        click.echo(json.dumps(outcomes, indent=2))
    return int(not all(each["cancelled"] for each in outcomes))


# --- output


def _model(snapshot: Snapshot, entries: Matches[EntryStatus]) -> dict[str, Any]:
    partitions = {number: msgspec.to_builtins(stats) for number, stats in partition_stats(snapshot).items()}
    return {
        **model_fields(snapshot.model),
        "waiting": snapshot.waiting,
        "running": snapshot.running,
        "oldest_wait_s": snapshot.oldest_wait_s,
        "open_bytes": snapshot.open_bytes,
        "dead_letters": snapshot.dead,
        **({"partitions": partitions} if partitions else {}),
        "entries": [_located(partition, status) for partition, status in entries],
    }


def _located(partition: Partition, status: EntryStatus) -> dict[str, Any]:
    """Return an entry's fields, with its partition if the model has several."""
    return {**({"partition": Keys(partition.tag).partition} if partition.several else {}), **_summary(status)}


def _summary(status: EntryStatus) -> dict[str, Any]:
    entry = status.entry
    return {
        "entry": entry.entry_id,
        "request": entry.id,
        "age_s": round(status.age_s, 3),
        "rows": entry.rows,
        "bytes": entry.bytes,
        "kind": entry.kind,
        "worker": status.worker or None,
        "deliveries": entry.deliveries,
    }


def _details(status: EntryStatus) -> dict[str, Any]:
    entry = status.entry
    details = {
        "admitted": when(entry.t_ms),
        "timeout_s": entry.timeout_ms / 1000,
        "gateway": entry.gateway,
        "trace": entry.trace,
    }
    return {**details, "malformed": entry.malformed} if entry.malformed else details


def _print(screen: Console, snapshot: Snapshot, entries: Matches[EntryStatus]) -> None:
    screen.print(
        Text(snapshot.model, "bold"),
        f" waiting {snapshot.waiting}, running {snapshot.running}, oldest wait {snapshot.oldest_wait_s:.2f} s, "
        f"{snapshot.open_bytes:,} bytes in flight, {snapshot.dead} dead letters",
    )
    if partitions := partition_stats(snapshot):
        screen.print(partition_table(partitions))
    workers = table("worker", "state", "device", "batches", "rows", "activity")
    for worker_id, report in snapshot.workers.items():
        activity = (
            f"{report['batch_rows']} rows for {report['batch_s']} s" if report.get("batch") else report["progress"]
        )
        workers.add_row(worker_id, report["state"], report["device"], report["batches"], report["rows"], activity)
    screen.print(workers)
    if not entries:
        return
    names = ("entry", "request", "age (s)", "rows", "bytes", "kind", "worker", "deliveries")
    rows = table(*(("partition",) if entries[0][0].several else ()), *names)
    for partition, status in entries:
        cells = _located(partition, status) | {"age_s": f"{status.age_s:.2f}", "worker": status.worker or "waiting"}
        cells["deliveries"] = cells["deliveries"] or ""
        rows.add_row(*[printable(str(value)) for value in cells.values()])
    screen.print(rows)
    if (more := snapshot.waiting + snapshot.running - len(entries)) > 0:
        screen.print(f" … and about {more} more (--limit)")
