"""Lists, drops and requeues dead letters, for operators' tools.

The script `finish` creates dead letters. A requeued letter is dropped only once its outcome is known, so it is not lost
if the tool is killed.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import msgspec

from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection, to_dict
from smartbatch.shared.broker.queue.admission import Admission, AdmitStatus, NewEntry
from smartbatch.shared.broker.queue.claims import ENTRY_FIELDS, Entry, parse_entry
from smartbatch.shared.broker.queue.replies import Inbox
from smartbatch.shared.errors import QueueFull, SmartBatchError
from smartbatch.shared.keys import Keys
from smartbatch.shared.wire import Reply, unpack_reply

GATEWAY = "dead-requeue"
REPLY_GRACE_S = 2.0  # after a request's timeout its worker may still reply with deadline_exceeded


class DeadLetter(msgspec.Struct):
    """One dead letter with its former entry. `deliveries` is the number of times it was run, 0 if unknown."""

    id: str
    reason: str
    deliveries: int
    entry: Entry

    @property
    def died_ms(self) -> int:
        """Time of its creation, on the Redis clock."""
        return int(self.id.partition("-")[0])

    @property
    def new_request_id(self) -> str:
        """ID of the request when the letter is requeued. It is fixed, so requeuing a letter twice runs it once."""
        return f"requeue-{self.id}"


class DeadLetters:
    """One model's dead letters."""

    def __init__(self, connection: MultiplexedConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def count(self) -> int:
        return await self._connection.execute("XLEN", self._keys.dead)

    async def newest(self, limit: int | None = None) -> list[DeadLetter]:
        """Return up to `limit` letters, or all, newest first."""
        count = () if limit is None else ("COUNT", limit)
        found = await self._connection.execute("XREVRANGE", self._keys.dead, "+", "-", *count)
        return [_letter(each) for each in found]

    async def find(self, letter_ids: Sequence[str]) -> list[DeadLetter | None]:
        """Return the letter of each ID, None if there is none."""
        replies = await self._connection.call([("XRANGE", self._keys.dead, each, each) for each in letter_ids])
        return [_letter(found[0]) if found else None for found in replies]

    async def payload(self, letter: DeadLetter) -> bytes | None:
        """Return the payload, None if it was external and has expired."""
        if letter.entry.payload:
            return letter.entry.payload
        return await self._connection.execute("GET", self._keys.body(letter.entry.id))

    async def drop(self, letters: Sequence[DeadLetter]) -> int:
        """Delete letters and their external payloads. Returns how many letters still existed."""
        if not letters:
            return 0
        *_, (dropped, _) = await self._connection.call(
            [
                ("MULTI",),
                ("XDEL", self._keys.dead, *[letter.id for letter in letters]),
                ("UNLINK", *[self._keys.body(letter.entry.id) for letter in letters]),
                ("EXEC",),
            ]
        )
        return dropped


class Requeue:
    """Requeues letters of one model as new requests and receives their replies.

    `blocking` is a connection of its own that may block for BLOCK_S.
    """

    def __init__(
        self,
        connection: MultiplexedConnection,
        blocking: MultiplexedConnection,
        keys: Keys,
        *,
        max_entries: int,
        max_bytes: int,
        reply_ttl_s: float,
    ) -> None:
        gateway_id = f"{GATEWAY}-{uuid.uuid4().hex[:12]}"
        self._connection = connection
        self._keys = keys
        self._letters = DeadLetters(connection, keys)
        self._inbox = Inbox(blocking, keys, gateway_id)
        self._admission = Admission(
            connection, keys, gateway_id, max_entries=max_entries, max_bytes=max_bytes, body_ttl_s=reply_ttl_s
        )

    async def submit(self, letter: DeadLetter, timeout_s: float) -> str:
        """Admit the letter as a new request and return its ID. The letter is kept.

        Raises QueueFull, or SmartBatchError if the payload has expired.
        """
        payload = await self._letters.payload(letter)
        if payload is None:
            raise SmartBatchError(f"{letter.id}: its payload has expired, so it can't be run again")
        entry, request_id = letter.entry, letter.new_request_id
        request = NewEntry(request_id, int(timeout_s * 1000), entry.rows, entry.kind, payload, entry.trace)
        if not (await self._admission.are_inflight([request_id]))[0]:
            await self._connection.execute("UNLINK", self._keys.reply(request_id))  # of an earlier attempt
        result = await self._admission.admit([request])
        if result.statuses != [AdmitStatus.ADMITTED]:
            raise QueueFull(f"{letter.id}: the queue is full ({result.waiting} waiting); it stays a dead letter")
        return request_id

    async def wait_for_reply(self, request_id: str, timeout_s: float) -> Reply | None:
        """Wait for the reply. Returns None if it was not run in time, and cancels it, or if Redis lost the request."""
        until = time.monotonic() + timeout_s + REPLY_GRACE_S
        reply = None
        while reply is None and time.monotonic() < until:
            [inflight] = await self._admission.are_inflight([request_id])
            [reply] = await self._inbox.read([request_id])  # after the check, because it may finish in between
            if reply is None and not inflight:
                return None
            if reply is None:
                await self._inbox.pop([])
        if reply is None:
            await self._admission.cancel([request_id])
            return None
        await self._connection.execute("UNLINK", self._keys.reply(request_id))
        return unpack_reply(reply)

    async def close(self) -> None:
        """Delete the inbox."""
        await self._connection.execute("UNLINK", self._inbox.key)


def _letter(found: tuple[bytes, Sequence[bytes]]) -> DeadLetter:
    letter_id, fields = found[0], to_dict(found[1])
    parts: list[bytes] = []
    for name in ENTRY_FIELDS:
        parts += (name, fields.get(name, b""))  # absent if the entry was gone when the letter was created
    entry = parse_entry((fields[b"entry_id"], parts))
    # the fields of a malformed entry may include these names
    reason, deliveries = fields[b"reason"].decode("utf-8", "replace"), fields.get(b"deliveries", b"0")
    return DeadLetter(letter_id.decode(), reason, int(deliveries) if deliveries.isdigit() else 0, entry)
