"""Lists, inspects and cancels the entries of a stream, for operators' tools. No command reads the whole stream."""

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

READ_COUNT = 16  # entries per command, together at most a megabyte, because larger payloads are external
ENTRY_ID = re.compile(r"\d+-\d+")


class EntryStatus(msgspec.Struct):
    """One entry, its age and its worker, which is empty while the entry waits."""

    entry: Entry
    age_s: float
    worker: str = ""


class Entries:
    """The entries of one model."""

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
            waiting += [_status(each, now_ms) for each in found]
            last_id = found[-1][0].decode()
        return running + waiting

    async def _running(self, limit: int, now_ms: int) -> list[EntryStatus]:
        stream = self._keys.requests
        running: list[EntryStatus] = []
        count_read, after = 0, "-"
        while count_read < limit:
            count = min(READ_COUNT, limit - count_read)
            rows = await self._connection.execute("XPENDING", stream, GROUP, after, "+", count)
            if not rows:
                break
            count_read += len(rows)
            after = f"({rows[-1][0].decode()}"
            replies = await self._connection.call([("XRANGE", stream, entry_id, entry_id) for entry_id, *_ in rows])
            for row, found in zip(rows, replies, strict=True):
                running += [_status(each, now_ms, row) for each in found]
        return running

    async def find(self, ids: Sequence[str]) -> list[EntryStatus | None]:
        """Return the entry of each entry ID or request ID, None if there is none."""
        entry_ids = list(ids)
        requests = [n for n, id_ in enumerate(ids) if not ENTRY_ID.fullmatch(id_)]
        if requests:
            values = await self._connection.execute("HMGET", self._keys.inflight, *[ids[n] for n in requests])
            for n, value in zip(requests, values, strict=True):
                entry_id = value.partition(b"|")[0].decode() if value else ""
                entry_ids[n] = entry_id if ENTRY_ID.fullmatch(entry_id) else ""  # `inflight` has fields for sums, too
        now_ms = to_ms(await self._connection.execute("TIME"))
        return [await self._find(entry_id, now_ms) if entry_id else None for entry_id in entry_ids]

    async def _find(self, entry_id: str, now_ms: int) -> EntryStatus | None:
        stream = self._keys.requests
        commands = [("XRANGE", stream, entry_id, entry_id), ("XPENDING", stream, GROUP, entry_id, entry_id, 1)]
        # XPENDING fails before a worker has created the group.
        found, rows = await self._connection.call(commands, return_errors=True)
        if isinstance(found, Exception):
            raise found
        return _status(found[0], now_ms, rows[0] if isinstance(rows, list) and rows else None) if found else None

    async def payload(self, status: EntryStatus) -> bytes | None:
        """Return the payload, None if it was external and is gone."""
        if status.entry.payload:
            return status.entry.payload
        return await self._connection.execute("GET", self._keys.body(status.entry.id))

    async def cancel(self, status: EntryStatus, reply_ttl_s: float) -> bool:
        """Remove a waiting or running entry and send its client an error. Returns False if it already had a reply.

        The error is a normal reply, so the later reply of a worker is dropped.
        """
        queue = WorkerQueue(self._connection, self._connection, self._keys, "", lease_ms=0, reply_ttl_s=reply_ttl_s)
        reply = pack_reply(Reply(error=CancelledByOperator("an operator cancelled this request")))
        closed = await queue.finish([Outcome(status.entry, reply)])
        return closed > 0 or bool(status.entry.malformed)  # no gateway waits for it


def _status(raw: Sequence, now_ms: int, pending: Sequence | None = None) -> EntryStatus:
    """Create the status. `pending` is the entry's row of XPENDING, None while it waits."""
    _, worker, _, deliveries = pending or (b"", b"", 0, 0)
    entry = parse_entry(raw, deliveries)
    return EntryStatus(entry, entry.age_s(now_ms), worker.decode())
