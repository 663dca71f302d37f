"""The worker's side of the stream: claim entries, wait for more, release the fill lock, finish."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from itertools import chain
from typing import Literal

import msgspec

from smartbatch.shared.broker.connection.multiplexed import Argument, Command, MultiplexedConnection
from smartbatch.shared.broker.connection.script import CLAIM, FINISH, FINISH_PLAIN, RELEASE
from smartbatch.shared.broker.queue.replies import NOTICE_REPLY_BYTES
from smartbatch.shared.errors import BrokerFull, BrokerUnavailable
from smartbatch.shared.keys import GROUP, Keys

Mode = Literal["idle", "top", "ahead"]

MAX_WAIT_MS = 500  # of one wait for an entry; well within the blocking connection's timeout
UNBLOCK_SLACK_MS = 200  # by which Redis ends a wait itself, should CLIENT UNBLOCK get lost
UNBLOCK_AGAIN_S = 0.001
INLINE_REPLY_BYTES = 16 * 1024  # larger ones are SET before the script, as payloads are (admission.INLINE_BYTES)
DEAD_BODY_TTL_MS = 7 * 24 * 3600 * 1000
DEAD_MAX = 1000


class Entry(msgspec.Struct):
    """One request on the stream, as claimed. Times are on the Redis clock."""

    entry_id: str
    id: str
    gateway: str
    t_ms: int
    timeout_ms: int
    rows: int
    bytes: int
    kind: str
    trace: str
    payload: bytes
    deliveries: int = 1
    malformed: str = ""  # why it can't be run, if it isn't what a gateway writes
    external: bool = False  # its payload has a key of its own instead of a place on the stream

    def age_s(self, now_ms: int) -> float:
        """How long ago it was admitted; 0 where nobody knows."""
        return max(0, now_ms - self.t_ms) / 1000 if self.t_ms else 0.0


class Claim(msgspec.Struct):
    """The answer of one claim."""

    kind: Literal["batch", "isolated", "empty"]
    now_ms: int
    waiting: int
    last_id: str
    next_too_large: bool  # the next entry has more rows than there is room for
    entries: list[Entry]


class Outcome(msgspec.Struct):
    """What becomes of one entry. Without `reply` the request is given up: no reply, its place freed."""

    entry: Entry
    reply: bytes = b""
    dead_reason: str = ""


class DeadWorker(msgspec.Struct, frozen=True):
    """A worker found dead, and the score that its expired lease had then."""

    worker_id: str
    score: bytes


ENTRY_FIELDS = [b"id", b"header", b"payload"]
_MAX_NUMBER = 2**53  # what Lua and floats still tell from its neighbours
_MAX_TIMEOUT_MS = 7 * 24 * 3600 * 1000  # REQUEST_TIMEOUT is a day at the most; waiting for 1e11 s raises


def parse_entry(raw: Sequence, deliveries: int = 1) -> Entry:
    """Read one stream entry: its id, its header (gateway|t|bytes|rows|timeout_ms|kind|trace), its payload.

    An entry in another format (somebody's own XADD) raises nothing, since that would fail its whole batch: it is
    returned with the reason in `malformed`.
    """
    entry_id, fields = raw
    if fields[::2] != ENTRY_FIELDS:
        return _malformed(entry_id, fields, deliveries, "its fields are not those of a request")
    _, id_, _, header, _, payload = fields
    parts = header.split(b"|", 6)
    if len(parts) != 7:
        return _malformed(entry_id, fields, deliveries, "its header is not that of a request")
    try:
        gateway, t, size, rows, timeout, kind, trace = parts
        entry = Entry(
            entry_id.decode(),
            id_.decode(),
            gateway.decode(),
            int(t),
            int(timeout),
            int(rows),
            int(size),
            kind.decode(),
            trace.decode(),
            payload,
            deliveries,
            external=not payload,
        )
    except ValueError:  # UnicodeDecodeError is one
        return _malformed(entry_id, fields, deliveries, "its id or header holds what is neither a number nor text")
    times = _MAX_NUMBER >= entry.t_ms >= 0 and _MAX_TIMEOUT_MS >= entry.timeout_ms > 0
    if not (times and _MAX_NUMBER >= entry.rows > 0 and _MAX_NUMBER >= entry.bytes > 0):
        return _malformed(entry_id, fields, deliveries, "a number is out of range")
    return entry


def _malformed(entry_id: bytes, fields: Sequence[bytes], deliveries: int, reason: str) -> Entry:
    """Keep the request's id and gateway where they can be read, so that its client gets an error."""
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    id_, header = (named.get(name, b"").decode("ascii", "replace") for name in (b"id", b"header"))
    gateway = header.partition("|")[0]
    return Entry(entry_id.decode("ascii", "replace"), id_, gateway, 0, 0, 0, 0, "", "", b"", deliveries, reason)


def _plain(outcomes: Sequence[Outcome]) -> bool:
    """Whether `finish_plain` can: each has a reply that its notice can carry, none is a dead letter or comes twice."""
    for outcome in outcomes:
        if not 0 < len(outcome.reply) <= NOTICE_REPLY_BYTES or outcome.entry.malformed or outcome.dead_reason:
            return False
    return len({outcome.entry.id for outcome in outcomes}) == len(outcomes)


class WorkerQueue:
    """One worker's claims on one model.

    `claim` and the waits share the blocking connection and belong to the batcher; the rest use the command
    connection and may be called by any task of the worker.
    """

    def __init__(
        self,
        blocking: MultiplexedConnection,
        command: MultiplexedConnection,
        keys: Keys,
        worker_id: str,
        *,
        lease_ms: int,
        reply_ttl_s: float,
    ) -> None:
        self._blocking = blocking
        self._command = command
        self._keys = keys
        self._worker_id = worker_id
        self._lease_ms = lease_ms
        self._reply_ttl_ms = int(reply_ttl_s * 1000)
        self._blocking_id: int | None = None  # of the blocking connection, as CLIENT UNBLOCK wants it
        self._blocking_generation = 0  # of the connection with that id: a broker that is restarted gives ids again
        self._unblocks: set[asyncio.Task[None]] = set()
        self._wait: object | None = None  # for an entry, that is under way

    async def claim(
        self,
        mode: Mode,
        *,
        room_rows: int,
        room_bytes: int,
        held_rows: int = 0,
        hold_ms: int = 0,
        soon: bool = False,
        dead_worker: DeadWorker | None = None,
        after_wakeup_s: float = 0.0,
        after_entry: tuple[str, int] | None = None,
    ) -> Claim:
        """Claim now, or after a wakeup (within `after_wakeup_s`), or after an entry beyond an id came.

        `after_entry` is (last seen entry id, ms to wait; MAX_WAIT_MS at most, then ask again). The wait and the claim
        are sent in one write, so Redis claims the moment the wait ends. Never resent: after an error the heartbeat's
        audit finds what was claimed.
        """
        keys = self._keys
        script_keys = [keys.requests, keys.inflight, keys.fill_lock, keys.wakeup, keys.leases]
        args: list[Argument] = [GROUP, self._worker_id, mode, held_rows, room_rows, room_bytes, hold_ms]
        args += [self._lease_ms, int(soon)]
        args += [dead_worker.worker_id, dead_worker.score] if dead_worker else ["", ""]
        if after_entry:
            answer = await self._claim_after_entry(*after_entry, script_keys, args)
        elif after_wakeup_s:
            wakeup = ("BLPOP", keys.wakeup, after_wakeup_s)
            answer = await CLAIM.call(self._blocking, script_keys, args, before=[wakeup])
        else:
            answer = await CLAIM.call(self._blocking, script_keys, args)
        kind, now, waiting, last, next_too_large, deliveries, entries = answer
        return Claim(
            kind.decode(),
            now,
            waiting,
            last.decode(),
            bool(next_too_large),
            [parse_entry(e, deliveries) for e in entries],
        )

    async def _claim_after_entry(self, last_id: str, wait_ms: int, script_keys: list[str], args: list[Argument]):
        """Redis looks at blocked clients only ten times a second when nothing else happens, so a window of 10 ms
        would last up to 100: the time is kept here, and CLIENT UNBLOCK ends the wait."""
        if self._blocking_id is None or self._blocking_generation != self._blocking.generation:
            self._blocking_id = await self._blocking.execute("CLIENT", "ID")
            self._blocking_generation = self._blocking.generation
        wait_ms = min(wait_ms, MAX_WAIT_MS)
        block_ms = wait_ms + UNBLOCK_SLACK_MS
        entry = ("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", self._keys.requests, last_id)
        timer = asyncio.get_running_loop().call_later(wait_ms / 1000, self._unblock)
        self._wait = object()
        try:
            return await CLAIM.call(self._blocking, script_keys, args, before=[entry])
        finally:
            self._wait = None
            timer.cancel()

    def wake(self) -> None:
        """End a wait for an entry that is under way: its claim follows at once."""
        if self._wait is not None:
            self._unblock()

    def _unblock(self) -> None:
        task = asyncio.create_task(self._unblock_now(self._wait))
        self._unblocks.add(task)
        task.add_done_callback(self._unblocks.discard)

    async def _unblock_now(self, wait: object | None) -> None:
        """End the wait. Redis may come to this before it comes to the wait, which left on another connection: then
        nobody is blocked yet, and it is asked again until the wait is over."""
        try:
            while wait is not None and self._wait is wait and self._blocking_id is not None:
                if self._blocking_generation != self._blocking.generation:
                    self._blocking_id = None  # of another connection by now
                elif await self._command.execute("CLIENT", "UNBLOCK", self._blocking_id):
                    return
                else:
                    await asyncio.sleep(UNBLOCK_AGAIN_S)
        except BrokerUnavailable:
            self._blocking_id = None

    async def release(self) -> None:
        """Release the fill lock. Harmless to repeat."""
        keys = self._keys
        await RELEASE.call(self._command, [keys.requests, keys.fill_lock, keys.wakeup], [GROUP, self._worker_id])

    async def bodies(self, request_ids: Sequence[str]) -> list[bytes | None]:
        """Fetch external payloads; None where one is lost."""
        return await self._command.execute("MGET", *[self._keys.body(request_id) for request_id in request_ids])

    async def read(self, entry_id: str) -> Entry | None:
        """Read one of my own pending entries again, without counting a delivery. None if it is gone."""
        stream = self._keys.requests
        found, pending = await self._command.call(
            [("XRANGE", stream, entry_id, entry_id), ("XPENDING", stream, GROUP, entry_id, entry_id, 1)]
        )
        if not found or not pending:
            return None
        *_, deliveries = pending[0]
        return parse_entry(found[0], deliveries)

    async def finish(self, outcomes: Sequence[Outcome]) -> int:
        """Publish replies and remove the entries. Returns how many requests it closed. Harmless to repeat."""
        if outcomes and _plain(outcomes) and await self._finish_plain(outcomes):
            return len(outcomes)
        try:
            return await self._finish(outcomes, INLINE_REPLY_BYTES)
        except BrokerFull:  # a plain SET is refused then; the script, which frees more than it takes, is not
            return await self._finish(outcomes, sys.maxsize)

    async def _finish_plain(self, outcomes: Sequence[Outcome]) -> bool:
        """Finish outcomes that are `_plain`, all or none. Returns whether it did."""
        keys = self._keys
        by_gateway: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            by_gateway.setdefault(outcome.entry.gateway, []).append(outcome)
        ids: list[str] = []
        entry_ids: list[str] = []
        held: list[str] = []
        notices: list[bytes] = []
        replies: list[bytes] = []
        bodies: list[str] = []
        all_bytes = all_rows = 0
        for outcome in chain.from_iterable(by_gateway.values()):
            entry, reply = outcome.entry, outcome.reply
            all_bytes += entry.bytes
            all_rows += entry.rows
            ids.append(entry.id)
            entry_ids.append(entry.entry_id)
            held.append(f"{entry.entry_id}|{entry.bytes}|{entry.rows}")
            notices.append(b"%b|%d|%b" % (entry.id.encode(), len(reply), reply))
            replies.append(reply)
            if entry.external:
                bodies.append(keys.body(entry.id))
        script_keys = [keys.requests, keys.inflight, *map(keys.inbox, by_gateway), *map(keys.reply, ids), *bodies]
        args = [GROUP, self._reply_ttl_ms, len(by_gateway), len(ids), all_bytes, all_rows]
        args += map(len, by_gateway.values())
        answer = await FINISH_PLAIN.call(
            self._command, script_keys, [*args, *ids, *entry_ids, *held, *notices, *replies]
        )
        return answer == 1

    async def _finish(self, outcomes: Sequence[Outcome], inline_bytes: int) -> int:
        keys = self._keys
        inboxes: dict[str, int] = {}  # of each gateway, counted from 1
        replies: list[str] = []
        bodies: list[str] = []
        args: list[Argument] = []
        sets: list[Command] = []
        for outcome in outcomes:
            entry, reply = outcome.entry, outcome.reply
            inbox = inboxes.setdefault(entry.gateway, len(inboxes) + 1)
            replies.append(keys.reply(entry.id))
            note, body = str(inbox), 0
            if entry.external or entry.malformed or outcome.dead_reason:  # of a malformed entry neither is known
                bodies.append(keys.body(entry.id))
                body = len(bodies)
            large = len(reply) > inline_bytes
            if large:
                sets.append(("SET", replies[-1], reply, "PX", self._reply_ttl_ms))
            if large or body or not reply:
                note = f"{inbox}|{len(reply)}|{body}|{outcome.dead_reason}"
            args += (entry.entry_id, entry.id, b"" if large else reply, note)
        script_keys = [keys.requests, keys.inflight, keys.dead, *map(keys.inbox, inboxes), *replies, *bodies]
        limits = (GROUP, self._reply_ttl_ms, DEAD_BODY_TTL_MS, DEAD_MAX, NOTICE_REPLY_BYTES, len(inboxes))
        return await FINISH.call(self._command, script_keys, [*limits, *args], before=sets)
