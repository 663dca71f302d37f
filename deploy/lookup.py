"""Dead letters and entries by their ids, or all letters, whichever model they are of."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from smartbatch.shared.broker.admin import registry
from smartbatch.shared.broker.admin.dead_letters import DeadLetter, DeadLetters
from smartbatch.shared.broker.admin.entries import Entries, Seen
from smartbatch.shared.broker.connection.client import Client, check, connect
from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.keys import Keys
from smartbatch.shared.settings import Settings

T = TypeVar("T")
Match = list[tuple[str, T]]  # (model, what was found)

_LETTER_ID = re.compile(r"\d+-\d+")


@asynccontextmanager
async def open_client(settings: Settings, block_s: float = 0.0) -> AsyncIterator[Client]:
    await check(settings.broker_url)
    client = connect(settings.broker_url, block_s=block_s)
    try:
        yield client
    finally:
        await client.aclose()


async def models_named(client: Client, name: str | None) -> list[str]:
    return [name] if name else sorted(await registry.models(client))


async def every_letter(client: Client, name: str | None) -> Match[DeadLetter]:
    return [
        (m, letter) for m in await models_named(client, name) for letter in await DeadLetters(client, Keys(m)).newest()
    ]


async def find_letters(client: Client, name: str | None, letter_ids: Sequence[str]) -> Match[DeadLetter]:
    """Return each letter. Raises SmartBatchError unless every id is one letter's."""
    for letter_id in letter_ids:
        if not _LETTER_ID.fullmatch(letter_id):
            raise SmartBatchError(f"a dead letter's id is like 1795433558335-0, not {letter_id!r:.60}")
    look = lambda model, ids: DeadLetters(client, Keys(model)).find(ids)  # noqa: E731
    return await _find(client, name, letter_ids, look, "dead letter", "smartbatch dead list")


async def find_entries(client: Client, name: str | None, ids: Sequence[str]) -> Match[Seen]:
    """Return each entry, by its own id or its request's. Raises SmartBatchError unless every id is one entry's."""
    return await _find(
        client, name, ids, lambda model, ids: Entries(client, model).find(ids), "entry", "smartbatch queue"
    )


async def _find(
    client: Client,
    name: str | None,
    ids: Sequence[str],
    find: Callable[[str, Sequence[str]], Awaitable[list[T | None]]],
    what: str,
    see: str,
) -> Match[T]:
    ids = list(dict.fromkeys(ids))
    found: dict[str, Match[T]] = {id_: [] for id_ in ids}
    for model in await models_named(client, name):
        for id_, each in zip(ids, await find(model, ids), strict=True):
            if each is not None:
                found[id_].append((model, each))
    for id_, matches in found.items():
        if not matches:
            where = f"model {name!r}" if name else "any model"
            raise SmartBatchError(f"no {what} {id_:.60} of {where}; `{see}` shows what there is")
        if len(matches) > 1:
            names = ", ".join(model for model, _ in matches)
            article = "an" if what[0] in "aeiou" else "a"
            raise SmartBatchError(f"{id_} is {article} {what} of several models ({names}); say which with --name")
    return [matches[0] for matches in found.values()]
