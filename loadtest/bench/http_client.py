"""A lean HTTP/1.1 client over keep-alive connections: it shares the cores with what it measures.

One request at a time per connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

UNANSWERED = 0  # the status of a request whose connection broke

Answered = Callable[["Connection", int], None]
Lost = Callable[["Connection"], None]


def request_bytes(port: int, body: bytes, path: str = "/predict", **headers: str) -> bytes:
    """The whole of a POST, made once and sent again and again."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = [f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


class AnswerReader:
    """Of a connection's answers, one after the other, it reads the status and the length, nothing else."""

    __slots__ = ("_head", "_left", "status")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0  # bytes of the answer's body still to come
        self.status = UNANSWERED

    def whole(self, data: bytes) -> bool:
        """Take in what came; return whether the answer is whole."""
        if self._left:
            self._left -= len(data)
        else:
            head = self._head + data if self._head else data
            end = head.find(b"\r\n\r\n")
            if end < 0:
                self._head = head
                return False
            fields = head[:end].lower()
            self.status = int(fields[9:12])
            at = fields.find(b"\r\ncontent-length:")
            length = int(fields[at + 17 :].partition(b"\r\n")[0]) if at >= 0 else 0
            self._left = end + 4 + length - len(head)
            self._head = b""
        if self._left > 0:
            return False
        self._left = 0
        return True


class Connection(asyncio.Protocol):
    """`answered(connection, status)` is called once for each `send`, also when the connection breaks; `lost` once."""

    def __init__(self, answered: Answered, lost: Lost) -> None:
        self._answered = answered
        self._lost = lost
        self._answer = AnswerReader()
        self._busy = False
        self.mark = 0.0  # the sender's: when this request was to start

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's isn't derived from it

    def send(self, request: bytes) -> None:
        self._busy = True
        self._transport.write(request)

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._answer.whole(data):
            self._end(self._answer.status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._busy:
            self._end(UNANSWERED)
        self._lost(self)

    def _end(self, status: int) -> None:
        self._busy = False
        self._answered(self, status)


async def connect(port: int, answered: Answered) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(answered, _nothing), "127.0.0.1", port)
    return connection


def _nothing(connection: Connection) -> None:
    pass
