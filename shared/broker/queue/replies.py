"""The gateway's side of replies: the inbox says which have come and carries the small ones; the reply keys hold all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, Command, MultiplexedConnection
from smartbatch.shared.keys import Keys

POP_COUNT = 256
MAX_READ_BYTES = 4 * 1024 * 1024
NOTICE_REPLY_BYTES = (
    2048  # its notice carries a reply up to this size: no second round trip, and a full POP_COUNT is half a megabyte
)


class Notice(NamedTuple):
    """One reply that has come."""

    request_id: str
    bytes: int
    reply: bytes | None  # None: it lies under its key alone


class Inbox:
    """One gateway process's replies of one model. `pop` is called by the reply router only: it takes."""

    def __init__(self, blocking: MultiplexedConnection, keys: Keys, gateway_id: str) -> None:
        self._connection = blocking
        self._keys = keys
        self.key = keys.inbox(gateway_id)

    async def pop(self, done: Sequence[str]) -> list[Notice]:
        """Delete the replies of `done`, then wait up to BLOCK_S for more."""
        commands: list[Command] = [("BLMPOP", BLOCK_S, 1, self.key, "LEFT", "COUNT", POP_COUNT)]
        if done:
            commands.insert(0, ("UNLINK", *[self._keys.reply(request_id) for request_id in done]))
        *_, popped = await self._connection.call(commands)
        return [_notice(notice) for notice in popped[1]] if popped else []

    async def read(self, request_ids: Sequence[str]) -> list[bytes | None]:
        """Return each request's reply, or None where there is none."""
        return await self._connection.execute("MGET", *[self._keys.reply(request_id) for request_id in request_ids])

    async def discard(self, request_ids: Sequence[str]) -> None:
        """Delete replies that have been read."""
        await self._connection.execute("UNLINK", *[self._keys.reply(request_id) for request_id in request_ids])


def _notice(notice: bytes) -> Notice:
    """Read `id|size` or `id|size|reply`. Anything else names nobody's request, and is skipped as one that has gone."""
    parts = notice.split(b"|", 2)
    if len(parts) < 3:
        parts += [b""] * (3 - len(parts))
    request_id, digits, reply = parts
    size = int(digits) if digits.isdigit() and len(digits) < 16 else 0
    return Notice(request_id.decode("ascii", "replace"), size, reply if reply and len(reply) == size else None)


def chunks(notices: Iterable[Notice], max_bytes: int = MAX_READ_BYTES) -> Iterator[list[str]]:
    """Cut into lists of ids whose replies together stay within `max_bytes` (or hold one alone)."""
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
