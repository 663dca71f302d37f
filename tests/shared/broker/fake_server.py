"""A server that speaks Redis's protocol and says what a test tells it to."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import hiredis

from smartbatch.shared.redis_url import Address

Reply = Callable[[tuple[str, ...]], Any]  # None: no reply, ever


class FakeServer:
    """Use as `async with`. `reply` is called with each command; `commands` has them all."""

    def __init__(self, reply: Reply, tls: ssl.SSLContext | None = None) -> None:
        self.reply = reply
        self._tls = tls
        self.commands: list[tuple[str, ...]] = []
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> FakeServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.address = Address("127.0.0.1", self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    def count(self, *command: str) -> int:
        return self.commands.count(command)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        parser = hiredis.Reader(notEnoughData=...)
        try:
            while data := await reader.read(65536):
                parser.feed(data)
                while (command := parser.gets()) is not ...:
                    assert isinstance(command, list)
                    self.commands.append(tuple(part.decode() for part in command))
                    if (reply := self.reply(self.commands[-1])) is not None:
                        writer.write(encode(reply))
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


def encode(reply: Any) -> bytes:
    """Encode a reply: an exception as an error, `...` as nil."""
    match reply:
        case Exception():
            return f"-{reply}\r\n".encode()
        case int():
            return b":%d\r\n" % reply
        case str():
            return b"$%d\r\n%b\r\n" % (len(reply.encode()), reply.encode())
        case list() | tuple():
            return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))
        case _:
            return b"$-1\r\n"
