"""One connection to Redis, shared by all tasks: commands are sent at once, and Redis replies in the same order.

A call costs 35 µs of CPU, where redis-py's asyncio client takes 150 µs (pool, timer, retries, records). A request that
is alone in its batch needs five calls.

A call times out only if no bytes are transferred, because a large payload may take long over a slow network. Large
payloads are sent in pieces through bounded buffers, so a buffer that accepts another piece proves progress.

A connection goes to the primary of one key, and looks where that is whenever it connects. If the server says that it is
not the primary, or not yet, the connection ends like a lost one, and the next call looks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis

from smartbatch.shared.broker.connection.primary import Primaries, primaries
from smartbatch.shared.errors import BrokerFull, BrokerUnavailable
from smartbatch.shared.redis_url import Address, parse_url

Argument = str | bytes | int | float
Command = Sequence[Argument]

COMMAND_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 1.0  # with the login
BLOCK_S = 1.0  # longest blocking read; a dead connection is detected one second later
CLIENT_NAME = "smartbatch"

_LARGE_BYTES = 32 * 1024  # a command with such an argument is sent without joining its arguments into one buffer
_PIECE_BYTES = 128 * 1024
_HIGH_WATER_BYTES = 512 * 1024  # of the transport's buffer
_LOW_WATER_BYTES = 256 * 1024  # of the transport's buffer, and of the kernel's where it supports this
_INCOMPLETE = object()
# Error replies after which the primary is looked for again. Redis has not executed the command.
_NOT_PRIMARY = (
    *("MOVED ", "ASK ", "TRYAGAIN ", "CLUSTERDOWN "),  # the slot is elsewhere, on its way, or nowhere
    *("READONLY ", "MASTERDOWN ", "LOADING ", "UNBLOCKED "),  # a replica; the last ends a call that waited at a primary
    "NOREPLICAS ",  # a primary that is cut off (min-replicas-to-write)
)


class UnknownScript(Exception):
    """Redis does not know the script's hash and has executed nothing."""


class _PendingCall:
    """The commands of one `call`, and the replies received so far."""

    __slots__ = ("count", "future", "replies", "sent_at")

    def __init__(self, future: asyncio.Future[list[Any]], count: int, sent_at: float) -> None:
        self.future = future
        self.count = count
        self.replies: list[Any] = []
        self.sent_at = sent_at


class MultiplexedConnection(asyncio.Protocol):
    """Connects at the first call, and again after a disconnection. It never sends a command twice.

    All keys of its calls have the hash tag of `key`, which decides the node of a cluster. Without a key any node does.
    Any task of its event loop may call it. A blocking command delays all commands behind it, so a task that blocks has
    its own connection, with `block_s` as the longest time. Cancelling a call of such a connection closes it: otherwise
    the blocking command would take the next element.
    """

    def __init__(self, url: str, key: str = "", *, block_s: float = 0.0) -> None:
        self._given_url = url
        self._url = parse_url(url)
        self.key = key
        self.address = self._url.addresses[0]  # of the server that it is connected to, or was last
        self._timeout_s = block_s + 1.0 if block_s else COMMAND_TIMEOUT_S
        self._exclusive = bool(block_s)
        self._primaries: Primaries | None = None  # once it connects
        self._connecting: asyncio.Task[None] | None = None
        self._connections = 0  # so far
        self._ready = False  # connected and logged in
        self._transport: Any = None
        self._reader = hiredis.Reader()
        self._pending: deque[_PendingCall] = deque()
        self._unsent: deque[bytes | memoryview] = deque()  # waits until the transport's buffer has room
        self._buffer_full = False
        self._last_progress_at = 0.0  # when bytes were last transferred, on the loop's clock
        self._timer: asyncio.TimerHandle | None = None
        self._not_primary: BrokerUnavailable | None = None  # an error reply of this connection said so

    @property
    def generation(self) -> int:
        """The number of the current connection, from 1; 0 while disconnected."""
        return self._connections if self._ready else 0

    async def call(self, commands: Sequence[Command], *, return_errors: bool = False) -> list[Any]:
        """Send commands in one pipeline and return their replies, decoded from RESP2 by hiredis.

        Raises BrokerUnavailable if the connection fails. Raises the first error reply, as BrokerFull, UnknownScript or
        BrokerUnavailable; with `return_errors` error replies are returned instead.
        """
        if not commands:
            return []
        if not self._ready:
            await self._connect()
            if not self._ready:
                raise _unavailable("the new connection was lost immediately")
        return await self._call(commands, return_errors)

    async def execute(self, *command: Argument) -> Any:
        """Send one command and return its reply. Raises as `call` does."""
        (reply,) = await self.call([command])
        return reply

    def close(self) -> None:
        if self._connecting:
            self._connecting.cancel()
        self._disconnect(_unavailable("the connection was closed"), lost=False)

    def abandon(self) -> None:
        """Let calls in flight fail. The next one connects again."""
        self._disconnect(_unavailable("its calls were abandoned"))

    def moved(self, address: Address) -> None:
        """Disconnect, because the primary of `key` is at `address` now. The next call connects to it."""
        self._disconnect(_unavailable(f"the primary has moved to {address}"), lost=False)

    async def _call(self, commands: Sequence[Command], return_errors: bool = False) -> list[Any]:
        loop = asyncio.get_running_loop()
        pieces = [piece for command in commands for piece in _pack(command)]  # may raise, so before anything is pending
        pending = _PendingCall(loop.create_future(), len(commands), loop.time())
        self._pending.append(pending)
        self._send(pieces)
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s, self._check_timeout)
        try:
            replies = await pending.future
        except asyncio.CancelledError:
            if self._exclusive:
                self._disconnect(_unavailable("the call was cancelled"), lost=False)
            raise
        if not return_errors:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    # --- connecting

    async def _connect(self) -> None:
        """Connect, or wait for a connection attempt in progress."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect_now())
            self._connecting.add_done_callback(self._connect_done)
        await asyncio.shield(self._connecting)

    async def _connect_now(self) -> None:
        self._primaries = found = primaries(self._given_url)
        self.address = address = await found.find(self.key)
        found.add(self)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._open(address)
                await self._log_in()
        except BaseException as error:
            self._disconnect(_unavailable("the login failed"))
            found.remove(self)
            found.failed(address)
            if isinstance(error, TimeoutError):
                raise _unavailable(f"{address}: no connection within {CONNECT_TIMEOUT_S:g} s") from error
            if isinstance(error, OSError | ValueError):
                raise _unavailable(f"{address}: {type(error).__name__}: {error}") from error
            raise
        self._connections += 1
        self._ready = self._transport is not None

    async def _open(self, address: Address) -> None:
        loop = asyncio.get_running_loop()
        if address.path:
            await loop.create_unix_connection(lambda: self, address.path)
        else:
            await loop.create_connection(lambda: self, address.host, address.port, ssl=self._url.tls_context())
        if self._transport is None:
            raise _unavailable("it closed the connection")

    async def _log_in(self) -> None:
        url = self._url
        credentials = url.credentials()
        handshake: list[Command] = [("AUTH", *credentials)] if credentials else []
        handshake.append(("CLIENT", "SETNAME", CLIENT_NAME))
        if url.db:
            handshake.append(("SELECT", url.db))
        if url.kind == "sentinel":
            handshake.append(("ROLE",))
        *_, last = await self._call(handshake)
        if url.kind == "sentinel" and last[0] != b"master":  # a Sentinel may be wrong for a second
            raise _unavailable(f"{self.address} is no primary (yet)")

    def _connect_done(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # marks it as retrieved; the waiting calls raise it

    # --- sending

    def _send(self, pieces: Sequence[bytes]) -> None:
        if not self._unsent and sum(map(len, pieces)) <= _PIECE_BYTES:
            self._transport.writelines(pieces)
            return
        for piece in pieces:
            if len(piece) <= _PIECE_BYTES:
                self._unsent.append(piece)
            else:
                whole = memoryview(piece)
                self._unsent += (whole[at : at + _PIECE_BYTES] for at in range(0, len(piece), _PIECE_BYTES))
        self._write()

    def _write(self) -> None:
        """Write pieces until the transport's buffer is full."""
        unsent = self._unsent
        while unsent and not self._buffer_full:
            chunk = [unsent.popleft()]
            size = len(chunk[0])
            while unsent and size + len(unsent[0]) <= _PIECE_BYTES:
                size += len(unsent[0])
                chunk.append(unsent.popleft())
            self._transport.writelines(chunk)

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(_HIGH_WATER_BYTES, _LOW_WATER_BYTES)
        _set_options(transport.get_extra_info("socket"))
        self._reader = hiredis.Reader(replyError=self._error_reply, notEnoughData=_INCOMPLETE)
        self._not_primary = None
        self._last_progress_at, self._buffer_full = asyncio.get_running_loop().time(), False
        self._unsent.clear()

    def pause_writing(self) -> None:
        self._buffer_full = True

    def resume_writing(self) -> None:
        self._buffer_full = False
        self._last_progress_at = asyncio.get_running_loop().time()
        if self._transport is not None:
            self._write()

    def data_received(self, data: bytes) -> None:
        self._last_progress_at = asyncio.get_running_loop().time()
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _INCOMPLETE:
                self._add_reply(reply)
        except (hiredis.ProtocolError, IndexError):
            self._disconnect(_unavailable("invalid data from the server"))
        if self._not_primary is not None:
            self._disconnect(self._not_primary)

    def _error_reply(self, text: str) -> Exception:
        error = _error_reply(text)
        if text.startswith(_NOT_PRIMARY):
            self._not_primary = _unavailable(text)
        return error

    def _add_reply(self, reply: Any) -> None:
        pending = self._pending[0]
        pending.replies.append(reply)
        if len(pending.replies) == pending.count:
            self._pending.popleft()
            if not pending.future.done():
                pending.future.set_result(pending.replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disconnect(_unavailable("it closed the connection"))

    # --- ending

    def _check_timeout(self) -> None:
        """Disconnect if no bytes were sent or received for the timeout."""
        loop = asyncio.get_running_loop()
        self._timer = None
        if not self._pending:
            return  # the next call starts the timer
        timeout_at = max(self._pending[0].sent_at, self._last_progress_at) + self._timeout_s
        if loop.time() < timeout_at:
            self._timer = loop.call_at(timeout_at, self._check_timeout)
        else:
            self._disconnect(_unavailable(f"no reply within {self._timeout_s:g} s"))

    def _disconnect(self, error: Exception, *, lost: bool = True) -> None:
        """Fail all calls. Without `lost` the server is not the cause."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if self._primaries is not None:
            self._primaries.remove(self)
            if lost:
                self._primaries.failed(self.address)
        self._ready = False
        transport.abort()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._unsent.clear()
        unanswered, self._pending = self._pending, deque()
        for pending in unanswered:
            if not pending.future.done():
                pending.future.set_exception(error)


def to_dict(flat: Sequence[Any]) -> dict[Any, Any]:
    """Convert a flat reply of fields and values to a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=False))


def _set_options(sock: socket.socket) -> None:
    """Make the kernel detect dead peers, and bound its send buffer, whose content would count as sent."""
    if sock.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _LOW_WATER_BYTES)


def _error_reply(text: str) -> Exception:
    if text.startswith("NOSCRIPT "):
        return UnknownScript(text)
    if text.startswith("OOM "):
        return BrokerFull("the broker has reached its memory limit")
    return _unavailable(text)


def _unavailable(reason: str) -> BrokerUnavailable:
    return BrokerUnavailable(f"the broker can't be reached or can't answer: {reason.partition(chr(10))[0][:200]}")


def _pack(command: Command) -> list[bytes]:
    if max(map(len, [part for part in command if type(part) is bytes]), default=0) < _LARGE_BYTES:
        return [hiredis.pack_command(tuple(command))]  # type: ignore[arg-type]  # the stub is wrong: more than one argument
    pieces = [b"*%d\r\n" % len(command)]
    for part in command:
        content = part if isinstance(part, bytes) else str(part).encode()
        pieces += (b"$%d\r\n" % len(content), content, b"\r\n")
    return pieces
