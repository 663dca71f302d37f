"""`smartbatch dead`"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from smartbatch.deploy.entry_view import print_fields, printable, when
from smartbatch.deploy.lookup import Matches, Partition, every_letter, find_letters, letters_of, open_connections
from smartbatch.deploy.options import json_option, model_option, read_for_operator, save_option, setting_options
from smartbatch.shared.broker.admin.dead_letters import DeadLetter, Requeue
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.broker.connection.multiplexed import BLOCK_S
from smartbatch.shared.errors import DeadlineExceeded, SmartBatchError
from smartbatch.shared.keys import Keys
from smartbatch.shared.settings import Settings
from smartbatch.shared.wire import Reply, Result

_all = click.option("--all", "everything", is_flag=True, help="Select all dead letters.")


@click.group("dead")
def command() -> None:
    """List, inspect, requeue and delete dead letters: requests that ended MAX_DELIVERIES workers.

    Only Redis is needed, so this works with any deployment. An unknown ID ends the command with exit code 2 before
    anything is changed.
    """


@command.command("list")
@setting_options("REDIS_URL")
@model_option
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="Maximum number of dead letters per model."
)
@json_option
def list_(name: str | None, limit: int, as_json: bool, **options: str | None) -> None:
    """List dead letters, newest first."""
    asyncio.run(_list(read_for_operator(options), name, limit, as_json))


@command.command("show")
@setting_options("REDIS_URL")
@click.argument("letter_id", metavar="ID")
@model_option
@save_option
@json_option
def show(letter_id: str, name: str | None, file: Path | None, as_json: bool, **options: str | None) -> None:
    """Show one dead letter and its payload."""
    asyncio.run(_show(read_for_operator(options), name, letter_id, file, as_json))


@command.command("requeue")
@setting_options("REDIS_URL", "REQUEST_TIMEOUT", "MAX_QUEUE", "MAX_QUEUE_BYTES", "REPLY_TTL")
@click.argument("letter_ids", metavar="[ID]…", nargs=-1)
@_all
@model_option
@click.option("--no-wait", is_flag=True, help="Requeue all at once and do not wait for their results.")
@json_option
def requeue(letter_ids, everything: bool, name, no_wait: bool, as_json: bool, **options: str | None) -> None:
    """Run dead letters again, as new requests.

    The original client is gone, so this command waits for each request in turn (up to REQUEST_TIMEOUT) and prints its
    outcome. A dead letter that was run is deleted, and one that was not run in time is kept. A request that ends
    MAX_DELIVERIES workers again becomes a new dead letter. Exit code 1 if any request failed.
    """
    _check_choice(letter_ids, everything)
    sys.exit(asyncio.run(_requeue(read_for_operator(options), name, letter_ids, no_wait, as_json)))


@command.command("drop")
@setting_options("REDIS_URL")
@click.argument("letter_ids", metavar="[ID]…", nargs=-1)
@_all
@model_option
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
def drop(letter_ids, everything: bool, name, yes: bool, as_json: bool, **options: str | None) -> None:
    """Delete dead letters and their payloads."""
    _check_choice(letter_ids, everything)
    asyncio.run(_drop(read_for_operator(options), name, letter_ids, yes, as_json))


def _check_choice(letter_ids: Sequence[str], everything: bool) -> None:
    if bool(letter_ids) == everything:
        raise click.UsageError("specify the IDs of dead letters, or --all")


# --- implementation


async def _list(settings: Settings, name: str | None, limit: int, as_json: bool) -> None:
    async with open_connections(settings) as connections:
        found = await every_letter(connections, settings, name, limit)
    if as_json:
        click.echo(json.dumps([_summary(*match) for match in found], indent=2))
        return
    if not found:
        click.echo("no dead letters")
        return
    from smartbatch.deploy.tables import console, table

    several = any(partition.several for partition, _ in found)
    place = ("partition",) if several else ()
    rows = table("id", "model", *place, "when", "request", "reason", "kind", "rows", "bytes", "deliveries", "trace")
    for partition, letter in found:
        entry = letter.entry
        keys = Keys(partition.tag)
        where = (keys.model, *((str(keys.partition),) if several else ()))
        numbers = (str(entry.rows), str(entry.bytes), str(letter.deliveries))
        texts = (letter.id, *where, when(letter.died_ms), entry.id, letter.reason, entry.kind, *numbers, entry.trace)
        rows.add_row(*[printable(text) for text in texts])
    console().print(rows)


async def _show(settings: Settings, name: str | None, letter_id: str, file: Path | None, as_json: bool) -> None:
    from smartbatch.deploy.payloads import payload_fields

    async with open_connections(settings) as connections:
        [(partition, letter)] = await find_letters(connections, settings, name, [letter_id])
        packed = await letters_of(connections, partition).payload(letter)
    fields = _summary(partition, letter)
    missing = "expired" if letter.entry.bytes else "unknown"
    fields |= payload_fields(packed, file, missing)
    if as_json:
        click.echo(json.dumps(fields, indent=2))
        return
    print_fields(fields)


async def _requeue(
    settings: Settings, name: str | None, letter_ids: Sequence[str], no_wait: bool, as_json: bool
) -> int:
    outcomes: list[dict[str, Any]] = []
    async with open_connections(settings) as connections, open_connections(settings, BLOCK_S) as blocking:
        for partition, letter in await _chosen(connections, settings, name, letter_ids):
            outcome = await _requeue_one(settings, connections, blocking, partition, letter, wait=not no_wait)
            outcomes.append({"id": letter.id, **partition.fields, "request": letter.new_request_id, **outcome})
            if not as_json:
                click.echo(f"{letter.id}  {printable(_sentence(outcome))}")
    if as_json:
        click.echo(json.dumps(outcomes, indent=2))
    return int(any(outcome["outcome"] in ("error", "kept") for outcome in outcomes))


async def _chosen(
    connections: Connections, settings: Settings, name: str | None, letter_ids: Sequence[str]
) -> Matches[DeadLetter]:
    if letter_ids:
        return await find_letters(connections, settings, name, letter_ids)
    return await every_letter(connections, settings, name)


async def _requeue_one(
    settings: Settings,
    connections: Connections,
    blocking: Connections,
    partition: Partition,
    letter: DeadLetter,
    *,
    wait: bool,
) -> dict[str, Any]:
    """Requeue one letter and return its outcome. One at a time, so that two poison inputs never share a batch."""
    keys, timeout_s = Keys(partition.tag), settings.request_timeout
    limits = {"max_entries": settings.max_queue, "max_bytes": settings.max_queue_bytes}
    both = connections.of(keys.dead), blocking.of(keys.dead)
    requeue = Requeue(*both, keys, reply_ttl_s=settings.reply_ttl, **limits)
    letters = letters_of(connections, partition)
    try:
        request_id = await requeue.submit(letter, timeout_s)
    except SmartBatchError as error:
        return {"outcome": "kept", "detail": error.detail}
    if not wait:
        await letters.drop([letter])
        return {"outcome": "queued", "detail": f"reply at {keys.reply(request_id)} for {settings.reply_ttl:g} s"}
    reply = await requeue.wait_for_reply(request_id, timeout_s)
    await requeue.close()
    if reply is None or isinstance(reply.error, DeadlineExceeded):
        return {"outcome": "kept", "detail": f"not answered within {timeout_s:g} s (is a worker running?)"}
    await letters.drop([letter])
    return _outcome(reply)


async def _drop(settings: Settings, name: str | None, letter_ids: Sequence[str], yes: bool, as_json: bool) -> None:
    async with open_connections(settings) as connections:
        found = await _chosen(connections, settings, name, letter_ids)
        if found and not letter_ids and not yes:
            click.confirm(f"Delete {_counted(len(found))}?", abort=True)
        deleted = 0
        for partition in dict.fromkeys(partition for partition, _ in found):
            there = [letter for each, letter in found if each == partition]
            deleted += await letters_of(connections, partition).drop(there)
    if as_json:
        click.echo(json.dumps({"deleted": deleted}))
    else:
        click.echo(f"deleted {_counted(deleted)}")


# --- output


def _summary(partition: Partition, letter: DeadLetter) -> dict[str, Any]:
    entry = letter.entry
    return {
        "id": letter.id,
        **partition.fields,
        "when": when(letter.died_ms),
        "request": entry.id,
        "entry": entry.entry_id,
        "admitted": when(entry.t_ms),
        "reason": letter.reason,
        "deliveries": letter.deliveries,
        "kind": entry.kind,
        "rows": entry.rows,
        "bytes": entry.bytes,
        "trace": entry.trace,
    }


def _outcome(reply: Reply) -> dict[str, Any]:
    if reply.error is not None:
        return {"outcome": "error", "code": reply.error.code, "detail": reply.error.detail}
    assert reply.result is not None
    return {"outcome": "ok", "result": _result(reply.result)}


def _result(result: Result) -> Any:
    if result.outputs is not None:
        return {name: {"dtype": tensor.dtype, "shape": tensor.shape} for name, tensor in result.outputs.items()}
    if result.classes is not None:
        return [[{"label": label, "class_id": i, "probability": p} for i, label, p in row] for row in result.classes]
    return result.values


def _sentence(outcome: dict[str, Any]) -> str:
    match outcome["outcome"]:
        case "ok":
            return f"ok: {msgspec.json.encode(outcome['result']).decode()[:300]}"
        case "error":
            return f"{outcome['code']}: {outcome['detail']}"
        case "queued":
            return f"queued: {outcome['detail']}"
        case _:
            return f"kept: {outcome['detail']}"


def _counted(count: int) -> str:
    return f"{count} dead letter{'s' * (count != 1)}"
