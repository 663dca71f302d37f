"""What is on a model's stream, entry by entry: for people and tools that look, never for the hot path."""

from __future__ import annotations

import msgspec

from shared.broker.claims import Entry, parse_entry
from shared.broker.connection import Client, broker_errors
from shared.keys import GROUP, Keys


class Seen(msgspec.Struct):
    """One entry as it is now. `worker` is empty while it waits."""

    entry: Entry
    age_s: float
    worker: str = ""


async def look(client: Client, model: str, limit: int) -> list[Seen]:
    """Return up to `limit` running and `limit` waiting entries, oldest first."""
    keys = Keys(model)
    with broker_errors():
        seconds, micros = await client.time()
        if not await client.exists(keys.requests):
            return []
        groups = await client.xinfo_groups(keys.requests)
        group = next((g for g in groups if g["name"] == GROUP.encode()), None)
        pending = await client.xpending_range(keys.requests, GROUP, "-", "+", limit) if group else []
        pipeline = client.pipeline(transaction=False)
        for row in pending:
            pipeline.xrange(keys.requests, row["message_id"], row["message_id"])
        after = f"({group['last-delivered-id'].decode()}" if group else "-"
        pipeline.xrange(keys.requests, after, "+", limit)
        *running, waiting = await pipeline.execute()
    now_ms = seconds * 1000 + micros // 1000
    seen = [
        _seen(found[0], now_ms, row["consumer"].decode(), row["times_delivered"])
        for row, found in zip(pending, running, strict=True)
        if found
    ]
    return seen + [_seen(found, now_ms) for found in waiting]


def _seen(found, now_ms: int, worker: str = "", deliveries: int = 0) -> Seen:
    entry_id, fields = found
    entry = parse_entry((entry_id, [part for pair in fields.items() for part in pair]), deliveries)
    return Seen(entry, max(0, now_ms - entry.t_ms) / 1000, worker)
