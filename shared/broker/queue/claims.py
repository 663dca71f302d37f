"""The worker's operations on the stream: claim entries, wait for more, release the fill lock, finish entries."""

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

MAX_WAIT_MS = 500  # longest wait for an entry, well below the timeout of the blocking connection
UNBLOCK_SLACK_MS = 200  # Redis itself ends a wait this much later, in case CLIENT UNBLOCK is lost
UNBLOCK_RETRY_S = 0.001
INLINE_REPLY_BYTES = 16 * 1024  # a larger reply is SET before the script, for the reason at admission.INLINE_BYTES
DEAD_BODY_TTL_MS = 7 * 24 * 3600 * 1000
DEAD_MAX = 1000


class Entry(msgspec.Struct):
    """One entry of the stream. Times are on the Redis clock."""

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
    malformed: str = ""  # why it can't be run, if no gateway wrote it
    external: bool = False  # the payload is stored under its own key

    def age_s(self, now_ms: int) -> float:
        """Return the time since admission; 0 if unknown."""
        return max(0, now_ms - self.t_ms) / 1000 if self.t_ms else 0.0


class Claim(msgspec.Struct):
    """The result of one claim."""

    kind: Literal["batch", "isolated", "empty"]
    now_ms: int
    waiting: int
    last_id: str
    next_too_large: bool  # the next entry has more rows than the batch has room for
    entries: list[Entry]


class Outcome(msgspec.Struct):
    """How one entry ends. Without a `reply` the request is removed and gets none."""

    entry: Entry
    reply: bytes = b""
    dead_reason: str = ""


class DeadWorker(msgspec.Struct, frozen=True):
    """A worker found dead, with the score of its expired lease at that time."""

    worker_id: str
    score: bytes


ENTRY_FIELDS = [b"id", b"header", b"payload"]
_MAX_NUMBER = 2**53  # largest integer that Lua represents exactly
_MAX_TIMEOUT_MS = 7 * 24 * 3600 * 1000  # REQUEST_TIMEOUT is at most a day; waiting for 1e11 s raises


def parse_entry(raw: Sequence, deliveries: int = 1) -> Entry:
    """Parse one stream entry: id, header (gateway|t|bytes|rows|timeout_ms|kind|trace) and payload.

    An invalid entry (for example somebody's own XADD) is returned with the reason in `malformed`, because an exception
    would fail its whole batch.
    """
    entry_id, fields = raw
    if fields[::2] != ENTRY_FIELDS:
        return _malformed(entry_id, fields, deliveries, "its fields are not id, header and payload")
    _, id_, _, header, _, payload = fields
    parts = header.split(b"|", 6)
    if len(parts) != 7:
        return _malformed(entry_id, fields, deliveries, "its header does not have seven parts")
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
        return _malformed(entry_id, fields, deliveries, "its id or header has an invalid number or invalid UTF-8")
    times = _MAX_NUMBER >= entry.t_ms >= 0 and _MAX_TIMEOUT_MS >= entry.timeout_ms > 0
    if not (times and _MAX_NUMBER >= entry.rows > 0 and _MAX_NUMBER >= entry.bytes > 0):
        return _malformed(entry_id, fields, deliveries, "a number is out of range")
    return entry


def _malformed(entry_id: bytes, fields: Sequence[bytes], deliveries: int, reason: str) -> Entry:
    """Return the entry with its request ID and gateway if they can be read, so that its client gets an error."""
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    id_, header = (named.get(name, b"").decode("ascii", "replace") for name in (b"id", b"header"))
    gateway = header.partition("|")[0]
    return Entry(entry_id.decode("ascii", "replace"), id_, gateway, 0, 0, 0, 0, "", "", b"", deliveries, reason)


def _is_plain(outcomes: Sequence[Outcome]) -> bool:
    """Whether `finish_plain` suffices: every reply fits into its notice, no entry is a dead letter or a duplicate."""
    for outcome in outcomes:
        if not 0 < len(outcome.reply) <= NOTICE_REPLY_BYTES or outcome.entry.malformed or outcome.dead_reason:
            return False
    return len({outcome.entry.id for outcome in outcomes}) == len(outcomes)


class WorkerQueue:
    """One worker's access to one model's queue.

    Only the batcher calls `claim`, which uses the blocking connection. Any task of the worker may call the rest.
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
        self._blocking_id: int | None = None  # CLIENT ID of the blocking connection
        self._blocking_generation = 0  # of the connection with this ID: a restarted broker reuses IDs
        self._unblocks: set[asyncio.Task[None]] = set()
        self._wait: object | None = None  # identifies the wait in progress
        self._waits_for_entry = False  # not for the wakeup

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
        """Claim entries now, or after a wakeup token or a new entry.

        `after_wakeup_s` is the longest wait for the token. `after_entry` is (last entry ID, milliseconds to wait, at
        most MAX_WAIT_MS). The wait and the claim are one pipeline, so Redis claims at the moment the wait ends. A claim
        is never sent again: after an error, the heartbeat's audit finds entries that it may have claimed.
        """
        keys = self._keys
        script_keys = [keys.requests, keys.inflight, keys.fill_lock, keys.wakeup, keys.leases]
        args: list[Argument] = [GROUP, self._worker_id, mode, held_rows, room_rows, room_bytes, hold_ms]
        args += [self._lease_ms, int(soon)]
        args += [dead_worker.worker_id, dead_worker.score] if dead_worker else ["", ""]
        if after_entry:
            result = await self._claim_after_entry(*after_entry, script_keys, args)
        elif after_wakeup_s:
            result = await self._claim_after(("BLPOP", keys.wakeup, after_wakeup_s), script_keys, args)
        else:
            result = await CLAIM.call(self._blocking, script_keys, args)
        kind, now, waiting, last, next_too_large, deliveries, entries = result
        return Claim(
            kind.decode(),
            now,
            waiting,
            last.decode(),
            bool(next_too_large),
            [parse_entry(e, deliveries) for e in entries],
        )

    async def _claim_after_entry(self, last_id: str, wait_ms: int, script_keys: list[str], args: list[Argument]):
        """Claim after a wait that a local timer ends, by CLIENT UNBLOCK.

        An idle Redis checks its timeouts only ten times per second, so a window of 10 ms would last up to 100 ms.
        """
        wait_ms = min(wait_ms, MAX_WAIT_MS)
        block_ms = wait_ms + UNBLOCK_SLACK_MS
        entry = ("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", self._keys.requests, last_id)
        timer = asyncio.get_running_loop().call_later(wait_ms / 1000, self.wake)
        self._waits_for_entry = True
        try:
            return await self._claim_after(entry, script_keys, args)
        finally:
            self._waits_for_entry = False
            timer.cancel()

    async def _claim_after(self, wait: Command, script_keys: list[str], args: list[Argument]):
        if self._blocking_id is None or self._blocking_generation != self._blocking.generation:
            self._blocking_id = await self._blocking.execute("CLIENT", "ID")
            self._blocking_generation = self._blocking.generation
        self._wait = object()
        try:
            return await CLAIM.call(self._blocking, script_keys, args, before=[wait])
        finally:
            self._wait = None

    def wake(self) -> None:
        """End a wait for an entry, so that its claim follows at once."""
        if self._waits_for_entry:
            self.interrupt()

    def interrupt(self) -> None:
        """End a wait for an entry or for the wakeup."""
        if self._wait is not None:
            self._unblock()

    def abandon(self) -> None:
        """Let a claim in flight fail: its broker does not answer. What it may have claimed is found by the audit."""
        self._blocking.abandon()

    def _unblock(self) -> None:
        task = asyncio.create_task(self._unblock_now(self._wait))
        self._unblocks.add(task)
        task.add_done_callback(self._unblocks.discard)

    async def _unblock_now(self, wait: object | None) -> None:
        """End the wait. Redis may process this before the XREAD of the other connection; then no client is blocked yet,
        and it is sent again until the wait is over."""
        try:
            while wait is not None and self._wait is wait and self._blocking_id is not None:
                if self._blocking_generation != self._blocking.generation:
                    self._blocking_id = None  # the connection was replaced
                elif await self._command.execute("CLIENT", "UNBLOCK", self._blocking_id):
                    return
                else:
                    await asyncio.sleep(UNBLOCK_RETRY_S)
        except BrokerUnavailable:
            self._blocking_id = None

    async def release(self) -> None:
        """Release the fill lock. Safe to repeat."""
        keys = self._keys
        await RELEASE.call(self._command, [keys.requests, keys.fill_lock, keys.wakeup], [GROUP, self._worker_id])

    async def bodies(self, request_ids: Sequence[str]) -> list[bytes | None]:
        """Fetch external payloads. A lost one is None."""
        return await self._command.execute("MGET", *[self._keys.body(request_id) for request_id in request_ids])

    async def read(self, entry_id: str) -> Entry | None:
        """Read one of this worker's pending entries again, without counting a delivery. Returns None if it is gone."""
        stream = self._keys.requests
        found, pending = await self._command.call(
            [("XRANGE", stream, entry_id, entry_id), ("XPENDING", stream, GROUP, entry_id, entry_id, 1)]
        )
        if not found or not pending:
            return None
        *_, deliveries = pending[0]
        return parse_entry(found[0], deliveries)

    async def finish(self, outcomes: Sequence[Outcome]) -> int:
        """Publish replies and remove the entries. Returns how many requests were finished. Safe to repeat."""
        if outcomes and _is_plain(outcomes) and await self._finish_plain(outcomes):
            return len(outcomes)
        try:
            return await self._finish(outcomes, INLINE_REPLY_BYTES)
        except BrokerFull:  # Redis rejects SET then, but not this script, which frees more memory than it uses
            return await self._finish(outcomes, sys.maxsize)

    async def _finish_plain(self, outcomes: Sequence[Outcome]) -> bool:
        """Finish all outcomes or none. Requires `_is_plain`. Returns whether they were finished."""
        keys = self._keys
        by_gateway: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            by_gateway.setdefault(outcome.entry.gateway, []).append(outcome)
        ids: list[str] = []
        entry_ids: list[str] = []
        inflight_values: list[str] = []
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
            inflight_values.append(f"{entry.entry_id}|{entry.bytes}|{entry.rows}")
            notices.append(b"%b|%d|%b" % (entry.id.encode(), len(reply), reply))
            replies.append(reply)
            if entry.external:
                bodies.append(keys.body(entry.id))
        script_keys = [keys.requests, keys.inflight, *map(keys.inbox, by_gateway), *map(keys.reply, ids), *bodies]
        args = [GROUP, self._reply_ttl_ms, len(by_gateway), len(ids), all_bytes, all_rows]
        args += map(len, by_gateway.values())
        result = await FINISH_PLAIN.call(
            self._command, script_keys, [*args, *ids, *entry_ids, *inflight_values, *notices, *replies]
        )
        return result == 1

    async def _finish(self, outcomes: Sequence[Outcome], inline_bytes: int) -> int:
        keys = self._keys
        inboxes: dict[str, int] = {}  # gateway -> number of its inbox, from 1
        replies: list[str] = []
        bodies: list[str] = []
        args: list[Argument] = []
        sets: list[Command] = []
        for outcome in outcomes:
            entry, reply = outcome.entry, outcome.reply
            inbox = inboxes.setdefault(entry.gateway, len(inboxes) + 1)
            replies.append(keys.reply(entry.id))
            note, body = str(inbox), 0
            if (
                entry.external or entry.malformed or outcome.dead_reason
            ):  # a malformed entry may have an external payload
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
