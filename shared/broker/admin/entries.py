"""What is on a model's stream, entry by entry: for people and tools that look, or take an entry back; never for the hot
path. Nothing is asked of Redis in one go that grows with what waits there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from smartbatch.shared.broker.connection.client import Client, broker_errors
from smartbatch.shared.broker.queue.claims import Entry, Outcome, WorkerQueue, read_entry
from smartbatch.shared.errors import CancelledByOperator
from smartbatch.shared.keys import GROUP, Keys
from smartbatch.shared.wire import Reply, pack_reply

PIECE = 16  # entries read at once: a megabyte at the most, since a larger payload lies beside the stream
ENTRY_ID = re.compile(r"\d+-\d+")


class Seen(msgspec.Struct):
    """One entry as it is now. `worker` is empty while it waits."""

    entry: Entry
    age_s: float
    worker: str = ""


class Entries:
    """One model's stream. Owned by whoever looks at it."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._keys = Keys(model)

    async def look(self, limit: int) -> list[Seen]:
        """Return up to `limit` running and `limit` waiting entries, oldest first."""
        client, stream = self._client, self._keys.requests
        with broker_errors():
            now_ms = await self._now_ms()
            groups = await client.xinfo_groups(stream) if await client.exists(stream) else []
            group = next((g for g in groups if g["name"] == GROUP.encode()), None)
            running = await self._running(limit, now_ms) if group else []
            waiting: list[Seen] = []
            after = f"({group['last-delivered-id'].decode()}" if group else "-"
            while len(waiting) < limit:
                found = await client.xrange(stream, after, "+", min(PIECE, limit - len(waiting)))
                if not found:
                    break
                waiting += [_seen(each, now_ms) for each in found]
                after = f"({found[-1][0].decode()}"
        return running + waiting

    async def _running(self, limit: int, now_ms: int) -> list[Seen]:
        running: list[Seen] = []
        asked, after = 0, "-"
        while asked < limit:
            rows = await self._client.xpending_range(self._keys.requests, GROUP, after, "+", min(PIECE, limit - asked))
            if not rows:
                break
            asked += len(rows)
            after = f"({rows[-1]['message_id'].decode()}"
            pipeline = self._client.pipeline(transaction=False)
            for row in rows:
                pipeline.xrange(self._keys.requests, row["message_id"], row["message_id"])
            for row, found in zip(rows, await pipeline.execute(), strict=True):
                running += [_seen(each, now_ms, row) for each in found]
        return running

    async def find(self, ids: Sequence[str]) -> list[Seen | None]:
        """Return each entry, by its own id or its request's, or None where there is none."""
        entry_ids = list(ids)
        requests = [n for n, id_ in enumerate(ids) if not ENTRY_ID.fullmatch(id_)]
        with broker_errors():
            if requests:
                held = await self._client.hmget(self._keys.inflight, [ids[n] for n in requests])
                for n, value in zip(requests, held, strict=True):
                    entry_id = value.partition(b"|")[0].decode() if value else ""
                    entry_ids[n] = entry_id if ENTRY_ID.fullmatch(entry_id) else ""  # `open` holds sums, too
            now_ms = await self._now_ms()
            return [await self._find(entry_id, now_ms) if entry_id else None for entry_id in entry_ids]

    async def _find(self, entry_id: str, now_ms: int) -> Seen | None:
        pipeline = self._client.pipeline(transaction=False)
        pipeline.xrange(self._keys.requests, entry_id, entry_id)
        pipeline.xpending_range(self._keys.requests, GROUP, entry_id, entry_id, 1)
        found, rows = await pipeline.execute(raise_on_error=False)  # there may be no group yet
        if isinstance(found, Exception):
            raise found
        return _seen(found[0], now_ms, rows[0] if isinstance(rows, list) and rows else None) if found else None

    async def payload(self, seen: Seen) -> bytes | None:
        """Return what its client sent; None if that lay beside the stream and is gone."""
        if seen.entry.payload:
            return seen.entry.payload
        with broker_errors():
            return await self._client.get(self._keys.body(seen.entry.id))

    async def take_back(self, seen: Seen, reply_ttl_s: float) -> bool:
        """Remove an entry, waiting or running, and tell its client so. False if it was answered meanwhile.

        For Redis this is an answer like any other: what a worker makes of it later is dropped.
        """
        finisher = WorkerQueue(self._client, self._client, self._keys, "", lease_ms=0, reply_ttl_s=reply_ttl_s)
        reply = pack_reply(Reply(error=CancelledByOperator("an operator cancelled this request")))
        closed = await finisher.finish([Outcome(seen.entry, reply)])
        return closed > 0 or bool(seen.entry.malformed)  # which no gateway waits for

    async def _now_ms(self) -> int:
        seconds, micros = await self._client.time()
        return seconds * 1000 + micros // 1000


def _seen(found, now_ms: int, pending=None) -> Seen:
    entry = read_entry(found, pending["times_delivered"] if pending else 0)
    return Seen(entry, entry.age_s(now_ms), pending["consumer"].decode() if pending else "")
