"""Find entries and dead letters by their IDs, in all models or in one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from typing import TypeVar

from smartbatch.shared.broker.admin import registry
from smartbatch.shared.broker.admin.dead_letters import DeadLetter, DeadLetters
from smartbatch.shared.broker.admin.entries import Entries, EntryStatus
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.broker.connection.check import check
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.keys import MODELS, Keys
from smartbatch.shared.settings import Settings

T = TypeVar("T")
Matches = list[tuple[str, T]]  # (model, entry or dead letter)

_LETTER_ID = re.compile(r"\d+-\d+")


@asynccontextmanager
async def open_connections(settings: Settings, block_s: float = 0.0) -> AsyncIterator[Connections]:
    await check(settings.broker_url)
    with closing(Connections(settings.broker_url, block_s=block_s)) as connections:
        yield connections


def snapshot_of(connections: Connections, model: str) -> Awaitable[Snapshot]:
    return registry.snapshot(connections.of(Keys(model).requests), model)


def letters_of(connections: Connections, model: str) -> DeadLetters:
    keys = Keys(model)
    return DeadLetters(connections.of(keys.dead), keys)


def entries_of(connections: Connections, model: str) -> Entries:
    return Entries(connections.of(Keys(model).requests), model)


async def models_named(connections: Connections, name: str | None) -> list[str]:
    return [name] if name else sorted(await registry.models(connections.of(MODELS)))


async def every_letter(connections: Connections, name: str | None) -> Matches[DeadLetter]:
    return [
        (m, letter)
        for m in await models_named(connections, name)
        for letter in await letters_of(connections, m).newest()
    ]


async def find_letters(connections: Connections, name: str | None, letter_ids: Sequence[str]) -> Matches[DeadLetter]:
    """Return the dead letter of each ID. Raises SmartBatchError unless every ID matches exactly one."""
    for letter_id in letter_ids:
        if not _LETTER_ID.fullmatch(letter_id):
            raise SmartBatchError(f"invalid dead letter ID {letter_id!r:.60}; expected one like 1795433558335-0")
    find = lambda model, ids: letters_of(connections, model).find(ids)  # noqa: E731
    return await _find(connections, name, letter_ids, find, "dead letter", "smartbatch dead list")


async def find_entries(connections: Connections, name: str | None, ids: Sequence[str]) -> Matches[EntryStatus]:
    """Return the entry of each entry or request ID. Raises SmartBatchError unless every ID matches exactly one."""
    find = lambda model, ids: entries_of(connections, model).find(ids)  # noqa: E731
    return await _find(connections, name, ids, find, "entry", "smartbatch queue")


async def _find(
    connections: Connections,
    name: str | None,
    ids: Sequence[str],
    find: Callable[[str, Sequence[str]], Awaitable[list[T | None]]],
    kind: str,
    list_command: str,
) -> Matches[T]:
    ids = list(dict.fromkeys(ids))
    found: dict[str, Matches[T]] = {id_: [] for id_ in ids}
    for model in await models_named(connections, name):
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
