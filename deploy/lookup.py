"""Find entries and dead letters by their IDs, in all models or in one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from typing import TypeVar

from smartbatch.shared.broker.admin import registry
from smartbatch.shared.broker.admin.dead_letters import DeadLetter, DeadLetters
from smartbatch.shared.broker.admin.entries import Entries, EntryStatus
from smartbatch.shared.broker.connection.check import check
from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection
from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.keys import Keys
from smartbatch.shared.settings import Settings

T = TypeVar("T")
Matches = list[tuple[str, T]]  # (model, entry or dead letter)

_LETTER_ID = re.compile(r"\d+-\d+")


@asynccontextmanager
async def open_connection(settings: Settings, block_s: float = 0.0) -> AsyncIterator[MultiplexedConnection]:
    await check(settings.broker_url)
    with closing(MultiplexedConnection(settings.broker_url, block_s=block_s)) as connection:
        yield connection


async def models_named(connection: MultiplexedConnection, name: str | None) -> list[str]:
    return [name] if name else sorted(await registry.models(connection))


async def every_letter(connection: MultiplexedConnection, name: str | None) -> Matches[DeadLetter]:
    return [
        (m, letter)
        for m in await models_named(connection, name)
        for letter in await DeadLetters(connection, Keys(m)).newest()
    ]


async def find_letters(
    connection: MultiplexedConnection, name: str | None, letter_ids: Sequence[str]
) -> Matches[DeadLetter]:
    """Return the dead letter of each ID. Raises SmartBatchError unless every ID matches exactly one."""
    for letter_id in letter_ids:
        if not _LETTER_ID.fullmatch(letter_id):
            raise SmartBatchError(f"invalid dead letter ID {letter_id!r:.60}; expected one like 1795433558335-0")
    find = lambda model, ids: DeadLetters(connection, Keys(model)).find(ids)  # noqa: E731
    return await _find(connection, name, letter_ids, find, "dead letter", "smartbatch dead list")


async def find_entries(connection: MultiplexedConnection, name: str | None, ids: Sequence[str]) -> Matches[EntryStatus]:
    """Return the entry of each entry or request ID. Raises SmartBatchError unless every ID matches exactly one."""
    return await _find(
        connection, name, ids, lambda model, ids: Entries(connection, model).find(ids), "entry", "smartbatch queue"
    )


async def _find(
    connection: MultiplexedConnection,
    name: str | None,
    ids: Sequence[str],
    find: Callable[[str, Sequence[str]], Awaitable[list[T | None]]],
    kind: str,
    list_command: str,
) -> Matches[T]:
    ids = list(dict.fromkeys(ids))
    found: dict[str, Matches[T]] = {id_: [] for id_ in ids}
    for model in await models_named(connection, name):
        for id_, each in zip(ids, await find(model, ids), strict=True):
            if each is not None:
                found[id_].append((model, each))
    for id_, matches in found.items():
        if not matches:
            where = f"model {name!r}" if name else "any model"
            raise SmartBatchError(f"no {kind} {id_:.60} in {where}; `{list_command}` lists what exists")
        if len(matches) > 1:
            names = ", ".join(model for model, _ in matches)
            raise SmartBatchError(f"{kind} {id_} exists in several models ({names}); select one with --name")
    return [matches[0] for matches in found.values()]
