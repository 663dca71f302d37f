"""Dead letters by their ids, or all of them, whichever model they are of."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from shared.broker import registry
from shared.broker.connection import Client, check, connect
from shared.broker.dead_letters import DeadLetter, DeadLetters
from shared.errors import SmartBatchError
from shared.keys import Keys
from shared.settings import Settings

Found = list[tuple[str, DeadLetter]]  # (model, letter)

_ID = re.compile(r"\d+-\d+")


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


async def every_letter(client: Client, name: str | None) -> Found:
    return [
        (m, letter) for m in await models_named(client, name) for letter in await DeadLetters(client, Keys(m)).newest()
    ]


async def find_letters(client: Client, name: str | None, letter_ids: Sequence[str]) -> Found:
    """Return each letter. Raises SmartBatchError unless every id is one letter's."""
    letter_ids = list(dict.fromkeys(letter_ids))
    for letter_id in letter_ids:
        if not _ID.fullmatch(letter_id):
            raise SmartBatchError(f"a dead letter's id is like 1795433558335-0, not {letter_id!r:.60}")
    models = await models_named(client, name)
    found: dict[str, Found] = {letter_id: [] for letter_id in letter_ids}
    for model in models:
        for letter in await DeadLetters(client, Keys(model)).find(letter_ids):
            if letter is not None:
                found[letter.id].append((model, letter))
    for letter_id, matches in found.items():
        if not matches:
            where = f"model {name!r}" if name else "any model"
            raise SmartBatchError(f"no dead letter {letter_id} of {where}; `smartbatch dead list` shows what there is")
        if len(matches) > 1:
            names = ", ".join(model for model, _ in matches)
            raise SmartBatchError(f"{letter_id} is a dead letter of several models ({names}); say which with --name")
    return [matches[0] for matches in found.values()]
