"""The requests of a chaos run: mostly plain ones, some hostile, malformed or abandoned."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from urllib.parse import urlsplit

from tests.load import Load

LARGE_BYTES = (30_000, 100_000)  # external payloads: unless admitted alone, and always
KILLERS = ("exit", "segfault", "kill", "hang")  # each of these ends workers until it becomes a dead letter

# kind → how often, of 1,000
MIX = {"plain": 920, "large": 40, "raise": 5, "memory": 5, "malformed": 10, "garbage": 5, "abandoned": 10, "hurried": 5}

MALFORMED: tuple[tuple[bytes, Mapping[str, str]], ...] = (
    (b"x", {"x-request-timeout": "soon"}),
    (b"not gzip", {"content-encoding": "gzip"}),
    (b"x", {"content-encoding": "zip"}),
    (b"x", {"accept": "image/png"}),
)
GARBAGE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS, to a plain port
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\ntoo little",
    b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"\r\n\r\n\0\0\0\0",
)


def kind(rng: random.Random) -> str:
    return rng.choices(list(MIX), list(MIX.values()))[0]


def begin(load: Load, rng: random.Random, kind: str) -> None:
    """Send a request of this kind. Its outcome is recorded in `load.sent`."""
    serial = len(load.sent)
    match kind:
        case "plain":
            load.begin()
        case "large":
            load.begin(kind=kind, body=b"%d " % serial + rng.randbytes(rng.choice(LARGE_BYTES)))
        case "malformed":
            body, headers = rng.choice(MALFORMED)
            load.begin(kind=kind, body=body, headers=headers)
        case "garbage":
            load.also(_garbage(rng.choice(load.urls()), rng.choice(GARBAGE)))
        case "abandoned":
            load.also(_abandon(load, rng.uniform(0.001, 0.3)))
        case "hurried":
            load.begin(kind=kind, headers={"x-request-timeout": f"{rng.uniform(0.005, 0.1):.3f}"})
        case _:
            load.begin(kind=kind, body=b"!%s %d" % (kind.encode(), serial))


async def _abandon(load: Load, after_s: float) -> None:
    task = load.begin(kind="abandoned")
    await asyncio.sleep(after_s)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _garbage(url: str, data: bytes) -> None:
    """Send bytes that are not HTTP. The response does not matter, but other requests must still be served."""
    parts = urlsplit(url)
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(data)
                await reader.read(1000)
            finally:
                writer.transport.abort()
