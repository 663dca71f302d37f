"""A connection to Redis that all tasks share: commands leave at once, and answers come back in their order.

A call takes 35 µs of CPU time, where redis-py's asyncio client takes 150 (a connection from a pool, a timer, retries,
records), and a request that is alone in its batch needs five.

A call isn't given up while bytes still move: what is large may take long over a slow network. So it is sent in pieces,
and what a transport (TLS or not) and the kernel buffer of it is bounded: that they take another one shows that bytes
move.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis

from smartbatch.shared.errors import BrokerFull, BrokerUnavailable
from smartbatch.shared.redis_url import parse_url

Argument = str | bytes | int | float
Command = Sequence[Argument]

COMMAND_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 1.0
BLOCK_S = 1.0  # the longest blocking read; a connection that drops packets is noticed one second later
CLIENT_NAME = "smartbatch"

_LARGE_BYTES = 32 * 1024  # an argument of so much is sent from where it lies, not copied beside the others
_PIECE_BYTES = 128 * 1024
_HIGH_WATER_BYTES = 512 * 1024  # of the transport's buffer
_LOW_WATER_BYTES = 256 * 1024  # and of the kernel's, where it can be told so
_INCOMPLETE = object()


class UnknownScript(Exception):
    """Redis doesn't know the hash that EVALSHA named: nothing was executed."""


class _PendingCall:
    """The commands of one `call`, and the answers that have come to them."""

    __slots__ = ("answers", "count", "future", "sent_at")

    def __init__(self, future: asyncio.Future[list[Any]], count: int, sent_at: float) -> None:
        self.future = future
        self.count = count
        self.answers: list[Any] = []
        self.sent_at = sent_at


class MultiplexedConnection(asyncio.Protocol):
    """Connects when it is first used, and again after it was lost; nothing is ever sent twice.

    Any task of its event loop may call; a blocking command holds up those behind it. With `block_s`, for which blocking
    reads of one task may block, a call that is cancelled ends the connection: its command would still take what comes.
    """

    def __init__(self, url: str, *, block_s: float = 0.0) -> None:
        self._url = parse_url(url)
        self._timeout_s = block_s + 1.0 if block_s else COMMAND_TIMEOUT_S
        self._exclusive = bool(block_s)
        self._connecting: asyncio.Task[None] | None = None
        self._connections = 0  # made so far
        self._ready = False  # connected and logged in
        self._transport: Any = None
        self._reader = hiredis.Reader()
        self._pending: deque[_PendingCall] = deque()
        self._unsent: deque[bytes | memoryview] = deque()  # what the transport has no room for yet
        self._full = False  # the transport
        self._moved_at = 0.0  # when bytes moved last, by the loop's clock
        self._timer: asyncio.TimerHandle | None = None

    @property
    def generation(self) -> int:
        """Which of its connections this is, counted from 1; 0 while there is none."""
        return self._connections if self._ready else 0

    async def call(self, commands: Sequence[Command], *, return_errors: bool = False) -> list[Any]:
        """Send commands in one piece; return their answers, of RESP2 as hiredis reads it.

        Raises BrokerUnavailable, or the first error that Redis answers: BrokerFull, UnknownScript, BrokerUnavailable
        for any other. With `return_errors` those are returned, each in its answer's place.
        """
        if not commands:
            return []
        if not self._ready:
            await self._connect()
            if not self._ready:
                raise _unavailable("the connection was lost at once")
        return await self._call(commands, return_errors)

    async def execute(self, *command: Argument) -> Any:
        """Send one command; return its answer. Raises as `call` does."""
        (answer,) = await self.call([command])
        return answer

    def close(self) -> None:
        if self._connecting:
            self._connecting.cancel()
        self._lose(_unavailable("the connection was closed"))

    async def _call(self, commands: Sequence[Command], return_errors: bool = False) -> list[Any]:
        loop = asyncio.get_running_loop()
        pieces = [piece for command in commands for piece in _packed(command)]  # may raise: nothing is pending yet
        pending = _PendingCall(loop.create_future(), len(commands), loop.time())
        self._pending.append(pending)
        self._send(pieces)
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s, self._check_timeout)
        try:
            answers = await pending.future
        except asyncio.CancelledError:
            if self._exclusive:
                self._lose(_unavailable("the call was cancelled"))
            raise
        if not return_errors:
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers

    # --- connecting

    async def _connect(self) -> None:
        """Connect, or wait for the task that is doing so."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect_now())
            self._connecting.add_done_callback(self._connected)
        await asyncio.shield(self._connecting)

    async def _connect_now(self) -> None:
        url, loop = self._url, asyncio.get_running_loop()
        try:
            credentials = url.credentials()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if url.path:
                    await loop.create_unix_connection(lambda: self, url.path)
                else:
                    await loop.create_connection(lambda: self, url.host, url.port, ssl=url.tls_context())
        except TimeoutError as error:
            raise _unavailable(f"{url.address}: no connection within {CONNECT_TIMEOUT_S:g} s") from error
        except (OSError, ValueError) as error:
            raise _unavailable(f"{url.address}: {type(error).__name__}: {error}") from error
        if self._transport is None:
            raise _unavailable("it closed the connection")
        handshake: list[Command] = [("AUTH", *credentials)] if credentials else []
        handshake.append(("CLIENT", "SETNAME", CLIENT_NAME))
        if url.db:
            handshake.append(("SELECT", url.db))
        try:
            await self._call(handshake)
        except BaseException:
            self._lose(_unavailable("the login failed"))
            raise
        self._connections += 1
        self._ready = self._transport is not None

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # whoever waited has it

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
        """Give the transport as much as it takes."""
        unsent = self._unsent
        while unsent and not self._full:
            together = [unsent.popleft()]
            size = len(together[0])
            while unsent and size + len(unsent[0]) <= _PIECE_BYTES:
                size += len(unsent[0])
                together.append(unsent.popleft())
            self._transport.writelines(together)

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(_HIGH_WATER_BYTES, _LOW_WATER_BYTES)
        _set_options(transport.get_extra_info("socket"))
        self._reader = hiredis.Reader(replyError=_error_reply, notEnoughData=_INCOMPLETE)
        self._moved_at, self._full = asyncio.get_running_loop().time(), False
        self._unsent.clear()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._moved_at = asyncio.get_running_loop().time()
        if self._transport is not None:
            self._write()

    def data_received(self, data: bytes) -> None:
        self._moved_at = asyncio.get_running_loop().time()
        reader = self._reader
        try:
            reader.feed(data)
            while (answer := reader.gets()) is not _INCOMPLETE:
                self._answered(answer)
        except (hiredis.ProtocolError, IndexError):
            self._lose(_unavailable("what it sent is no answer of Redis"))

    def _answered(self, answer: Any) -> None:
        pending = self._pending[0]
        pending.answers.append(answer)
        if len(pending.answers) == pending.count:
            self._pending.popleft()
            if not pending.future.done():
                pending.future.set_result(pending.answers)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(_unavailable("it closed the connection"))

    # --- ending

    def _check_timeout(self) -> None:
        """Give up if for the timeout nothing moved of what was sent, nor of the answers to it."""
        loop = asyncio.get_running_loop()
        self._timer = None
        if not self._pending:
            return  # the next call starts the timer again
        late_at = max(self._pending[0].sent_at, self._moved_at) + self._timeout_s
        if loop.time() < late_at:
            self._timer = loop.call_at(late_at, self._check_timeout)
        else:
            self._lose(_unavailable(f"no answer within {self._timeout_s:g} s"))

    def _lose(self, error: Exception) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            return
        self._ready = False
        transport.abort()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._unsent.clear()
        lost, self._pending = self._pending, deque()
        for pending in lost:
            if not pending.future.done():
                pending.future.set_exception(error)


def to_dict(flat: Sequence[Any]) -> dict[Any, Any]:
    """Read the fields and values of a hash, an entry or a map."""
    return dict(zip(flat[::2], flat[1::2], strict=False))


def _set_options(connected: socket.socket) -> None:
    """Have the kernel find dead peers, and buffer no more than it can send soon: megabytes would look as if sent."""
    if connected.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _LOW_WATER_BYTES)


def _error_reply(text: str) -> Exception:
    if text.startswith("NOSCRIPT "):
        return UnknownScript(text)
    if text.startswith("OOM "):
        return BrokerFull("the broker has reached its memory limit")
    return _unavailable(text)


def _unavailable(reason: str) -> BrokerUnavailable:
    return BrokerUnavailable(f"the broker can't be reached or can't answer: {reason.partition(chr(10))[0][:200]}")


def _packed(command: Command) -> list[bytes]:
    if max(map(len, [part for part in command if type(part) is bytes]), default=0) < _LARGE_BYTES:
        return [hiredis.pack_command(tuple(command))]  # type: ignore[arg-type]  # its stub allows one argument
    pieces = [b"*%d\r\n" % len(command)]
    for part in command:
        content = part if isinstance(part, bytes) else str(part).encode()
        pieces += (b"$%d\r\n" % len(content), content, b"\r\n")
    return pieces
