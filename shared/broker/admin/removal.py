"""Removes a version of a model that nobody serves any more from the broker."""

from __future__ import annotations

from typing import NamedTuple

from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection
from smartbatch.shared.broker.connection.script import REMOVE
from smartbatch.shared.keys import MODELS, Keys


class Left(NamedTuple):
    """What keeps a partition from being removed."""

    entries: int
    workers: int


async def withdraw(connection: MultiplexedConnection, model: str) -> None:
    """Remove the announcement of a model. `connection` is that of MODELS. A worker that runs announces it again."""
    await connection.execute("HDEL", MODELS, model)


async def remove_keys(connection: MultiplexedConnection, keys: Keys, *, delete_dead: bool = False) -> Left:
    """Delete the keys of one partition, unless it has entries or workers. Dead letters are kept without
    `delete_dead`. Returns what is left, nothing if the keys are gone."""
    names = [keys.requests, keys.inflight, keys.fill_lock, keys.wakeup, keys.leases, keys.limits, keys.served]
    return Left(*await REMOVE.call(connection, [*names, *([keys.dead] if delete_dead else [])], []))
