"""Limits of batching that are changed while workers serve: a hash on Redis that each of them reads with its heartbeat.

A field that is absent, or that no `set_limits` would have written, leaves what the worker was started with.
"""

from __future__ import annotations

import math

import msgspec

from smartbatch.shared.broker.connection.multiplexed import Argument, MultiplexedConnection
from smartbatch.shared.keys import Keys

FIELDS = ("max_batch_size", "max_wait_time")
MAX_WAIT_S = 60.0


class LiveLimits(msgspec.Struct, frozen=True):
    """None: as the worker was started. A worker never takes more rows than it was started with."""

    max_batch_size: int | None = None
    max_wait_time: float | None = None  # seconds


async def set_limits(connection: MultiplexedConnection, keys: Keys, limits: LiveLimits) -> None:
    """Change those that are not None; they hold until `reset_limits`, for workers that start later too."""
    fields: list[Argument] = []
    for name in FIELDS:
        if (value := getattr(limits, name)) is not None:
            fields += (name, value)
    await connection.execute("HSET", keys.limits, *fields)


async def reset_limits(connection: MultiplexedConnection, keys: Keys) -> None:
    """All workers go back to what they were started with."""
    await connection.execute("DEL", keys.limits)


def from_redis(size: bytes | None, wait: bytes | None) -> LiveLimits:
    """Read the two fields; anything may stand there."""
    rows = int(size) if size and size.isdigit() and len(size) < 10 else 0
    return LiveLimits(rows or None, _seconds(wait) if wait else None)


def _seconds(text: bytes) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and 0 <= seconds <= MAX_WAIT_S else None
