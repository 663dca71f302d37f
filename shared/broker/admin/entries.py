"""What is on a model's stream, entry by entry: for people and tools that inspect or cancel entries; never for the hot
path. Nothing is asked of Redis in one go that grows with what waits there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from smartbatch.shared.broker.admin.registry import read_group, to_ms
from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection
from smartbatch.shared.broker.queue.claims import Entry, Outcome, WorkerQueue, parse_entry
from smartbatch.shared.errors import CancelledByOperator
from smartbatch.shared.keys import GROUP, Keys
from smartbatch.shared.wire import Reply, pack_reply

READ_COUNT = 16  # entries read at once: a megabyte at the most, since larger payloads are external
ENTRY_ID = re.compile(r"\d+-\d+")


class EntryStatus(msgspec.Struct):
    """One entry as it is now. `worker` is empty while it waits."""

    entry: Entry
    age_s: float
    worker: str = ""


class Entries:
    """One model's stream. Owned by whoever looks at it."""

    def __init__(self, connection: MultiplexedConnection, model: str) -> None:
        self._connection = connection
        self._keys = Keys(model)

    async def oldest(self, limit: int) -> list[EntryStatus]:
        """Return up to `limit` running and `limit` waiting entries, oldest first."""
        stream = self._keys.requests
        now_ms = to_ms(await self._connection.execute("TIME"))
        [groups] = await self._connection.call([("XINFO", "GROUPS", stream)], return_errors=True)
        pending, last_id = read_group(groups)
        running = await self._running(limit, now_ms) if pending else []
        waiting: list[EntryStatus] = []
        while len(waiting) < limit:
            count = min(READ_COUNT, limit - len(waiting))
            found = await self._connection.execute("XRANGE", stream, f"({last_id}", "+", "COUNT", count)
            if not found:
                break
            waiting += [_seen(each, now_ms) for each in found]
            last_id = found[-1][0].decode()
        return running + waiting

    async def _running(self, limit: int, now_ms: int) -> list[EntryStatus]:
        stream = self._keys.requests
        running: list[EntryStatus] = []
        asked, after = 0, "-"
        while asked < limit:
            count = min(READ_COUNT, limit - asked)
            rows = await self._connection.execute("XPENDING", stream, GROUP, after, "+", count)
            if not rows:
                break
            asked += len(rows)
            after = f"({rows[-1][0].decode()}"
            answers = await self._connection.call([("XRANGE", stream, entry_id, entry_id) for entry_id, *_ in rows])
            for row, found in zip(rows, answers, strict=True):
                running += [_seen(each, now_ms, row) for each in found]
        return running

    async def find(self, ids: Sequence[str]) -> list[EntryStatus | None]:
        """Return each entry, by its own id or its request's, or None where there is none."""
        entry_ids = list(ids)
        requests = [n for n, id_ in enumerate(ids) if not ENTRY_ID.fullmatch(id_)]
        if requests:
            held = await self._connection.execute("HMGET", self._keys.inflight, *[ids[n] for n in requests])
            for n, value in zip(requests, held, strict=True):
                entry_id = value.partition(b"|")[0].decode() if value else ""
                entry_ids[n] = entry_id if ENTRY_ID.fullmatch(entry_id) else ""  # `inflight` holds sums, too
        now_ms = to_ms(await self._connection.execute("TIME"))
        return [await self._find(entry_id, now_ms) if entry_id else None for entry_id in entry_ids]

    async def _find(self, entry_id: str, now_ms: int) -> EntryStatus | None:
        stream = self._keys.requests
        commands = [("XRANGE", stream, entry_id, entry_id), ("XPENDING", stream, GROUP, entry_id, entry_id, 1)]
        found, rows = await self._connection.call(commands, return_errors=True)  # there may be no group yet
        if isinstance(found, Exception):
            raise found
        return _seen(found[0], now_ms, rows[0] if isinstance(rows, list) and rows else None) if found else None

    async def payload(self, seen: EntryStatus) -> bytes | None:
        """Return what its client sent; None if it was an external payload and is gone."""
        if seen.entry.payload:
            return seen.entry.payload
        return await self._connection.execute("GET", self._keys.body(seen.entry.id))

    async def cancel(self, seen: EntryStatus, reply_ttl_s: float) -> bool:
        """Remove an entry, waiting or running, and tell its client so. False if it was answered meanwhile.

        For Redis this is an answer like any other: what a worker makes of it later is dropped.
        """
        queue = WorkerQueue(self._connection, self._connection, self._keys, "", lease_ms=0, reply_ttl_s=reply_ttl_s)
        reply = pack_reply(Reply(error=CancelledByOperator("an operator cancelled this request")))
        closed = await queue.finish([Outcome(seen.entry, reply)])
        return closed > 0 or bool(seen.entry.malformed)  # which no gateway waits for


def _seen(found: Sequence, now_ms: int, pending: Sequence | None = None) -> EntryStatus:
    """`pending`: its row of an answer to XPENDING, if it is running."""
    _, worker, _, deliveries = pending or (b"", b"", 0, 0)
    entry = parse_entry(found, deliveries)
    return EntryStatus(entry, entry.age_s(now_ms), worker.decode())
