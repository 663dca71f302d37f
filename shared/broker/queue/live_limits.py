"""Batch limits that can be changed while workers run: a hash in Redis that each worker reads with its heartbeat.

Without a valid value in the hash, the limit that the worker was started with applies.
"""

from __future__ import annotations

import math

import msgspec

from smartbatch.shared.broker.connection.multiplexed import Argument, MultiplexedConnection
from smartbatch.shared.keys import Keys

FIELDS = ("max_batch_size", "max_wait_time")
MAX_WAIT_S = 60.0


class LiveLimits(msgspec.Struct, frozen=True):
    """None means the limit that the worker was started with. `max_batch_size` can only lower that limit."""

    max_batch_size: int | None = None
    max_wait_time: float | None = None  # seconds


async def set_limits(connection: MultiplexedConnection, keys: Keys, limits: LiveLimits) -> None:
    """Change the limits that are not None, until `reset_limits`, for running and new workers."""
    fields: list[Argument] = []
    for name in FIELDS:
        if (value := getattr(limits, name)) is not None:
            fields += (name, value)
    await connection.execute("HSET", keys.limits, *fields)


async def copy_limits(connection: MultiplexedConnection, keys: Keys, limits: LiveLimits) -> None:
    """Set the limits of another partition. What the hash had is of an earlier time."""
    await reset_limits(connection, keys)
    if limits != LiveLimits():
        await set_limits(connection, keys, limits)


async def reset_limits(connection: MultiplexedConnection, keys: Keys) -> None:
    """Restore the limits that each worker was started with."""
    await connection.execute("DEL", keys.limits)


def from_redis(size: bytes | None, wait: bytes | None) -> LiveLimits:
    """Parse the two fields. Invalid values count as None."""
    rows = int(size) if size and size.isdigit() and len(size) < 10 else 0
    return LiveLimits(rows or None, _seconds(wait) if wait else None)


def _seconds(text: bytes) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and 0 <= seconds <= MAX_WAIT_S else None
