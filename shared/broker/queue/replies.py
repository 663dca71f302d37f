"""The gateway's operations on replies. The inbox announces all replies and contains small ones; the keys hold all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, Command, MultiplexedConnection
from smartbatch.shared.keys import Keys

POP_COUNT = 256
MAX_READ_BYTES = 4 * 1024 * 1024
# A notice contains a reply up to this size, which saves a round trip. POP_COUNT such notices are half a megabyte.
NOTICE_REPLY_BYTES = 2048


class Notice(NamedTuple):
    """The announcement of one reply."""

    request_id: str
    bytes: int
    reply: bytes | None  # None: only stored under the reply key


class Inbox:
    """One gateway process's inbox for one model. Only the reply router calls `pop`, which removes notices."""

    def __init__(self, blocking: MultiplexedConnection, keys: Keys, gateway_id: str) -> None:
        self._connection = blocking
        self._keys = keys
        self.key = keys.inbox(gateway_id)

    async def pop(self, done: Sequence[str]) -> list[Notice]:
        """Delete the replies of the requests in `done`, then wait up to BLOCK_S for notices."""
        commands: list[Command] = [("BLMPOP", BLOCK_S, 1, self.key, "LEFT", "COUNT", POP_COUNT)]
        if done:
            commands.insert(0, ("UNLINK", *[self._keys.reply(request_id) for request_id in done]))
        *_, popped = await self._connection.call(commands)
        return [_notice(notice) for notice in popped[1]] if popped else []

    async def check(self) -> None:
        """Raise BrokerUnavailable unless the primary can be reached and takes writes."""
        await self._connection.execute("UNLINK", self._keys.reply("none"))

    async def read(self, request_ids: Sequence[str]) -> list[bytes | None]:
        """Return the reply of each request, None if there is none."""
        return await self._connection.execute("MGET", *[self._keys.reply(request_id) for request_id in request_ids])

    async def discard(self, request_ids: Sequence[str]) -> None:
        """Delete replies that have been read."""
        await self._connection.execute("UNLINK", *[self._keys.reply(request_id) for request_id in request_ids])


def _notice(notice: bytes) -> Notice:
    """Parse `id|size` or `id|size|reply`. An invalid notice gets an ID that no request has, so it is ignored."""
    parts = notice.split(b"|", 2)
    if len(parts) < 3:
        parts += [b""] * (3 - len(parts))
    request_id, digits, reply = parts
    size = int(digits) if digits.isdigit() and len(digits) < 16 else 0
    return Notice(request_id.decode("ascii", "replace"), size, reply if reply and len(reply) == size else None)


def chunks(notices: Iterable[Notice], max_bytes: int = MAX_READ_BYTES) -> Iterator[list[str]]:
    """Split into lists of request IDs whose replies have at most `max_bytes` together; a larger reply is alone."""
    chunk: list[str] = []
    size = 0
    for notice in notices:
        if chunk and size + notice.bytes > max_bytes:
            yield chunk
            chunk, size = [], 0
        chunk.append(notice.request_id)
        size += notice.bytes
    if chunk:
        yield chunk
