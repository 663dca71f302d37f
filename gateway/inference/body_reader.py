"""Reads a request's body from ASGI and enforces its limits meanwhile.

No bytes beyond the limit are kept: a larger Content-Length is refused before the first byte, a chunked body at the
chunk that exceeds the limit, a compressed body at the byte that would inflate beyond it.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from smartbatch.gateway.core.body_memory import BodyMemoryBudget
from smartbatch.shared.errors import BodyTimeout, BodyTooLarge, ClientGone, MalformedBody, UnsupportedMedia

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

# A body may take up to REQUEST_TIMEOUT, but only if it arrives at this rate after the first seconds. The slowest mobile
# networks reach it. A client that is slow on purpose occupies memory for seconds, not minutes.
BODY_GRACE_S = 5.0
MIN_BODY_BYTES_PER_S = 4096
BODY_STALL_S = 10.0  # without any byte
PAUSED_S = 0.25  # a timeout noticed this late means that this process was paused

# Window bits for zlib: +16 means a gzip wrapper, the plain value a zlib wrapper, the negative one a raw stream.
_GZIP = 16 + zlib.MAX_WBITS


async def read_body(
    scope: MutableMapping[str, Any],
    receive: Receive,
    limit: int,
    timeout_s: float = 30.0,
    body_memory: BodyMemoryBudget | None = None,
) -> tuple[bytes, str]:
    """Return the body as received, and its coding: "gzip", "deflate" or "". `limit` is MAX_BODY_BYTES.

    Raises BodyTooLarge, BodyTimeout, ReceivingFull, MalformedBody, UnsupportedMedia (another Content-Encoding) or
    ClientGone.
    """
    declared, encoding = None, b""
    for name, value in scope["headers"]:
        if name == b"content-length":
            declared = _content_length(value, declared, limit)
        elif name == b"content-encoding":
            encoding = encoding + b"," + value if encoding else value
    coding = _content_coding(encoding)
    body = await _receive_all(receive, limit, timeout_s, body_memory or BodyMemoryBudget(limit))
    if declared is not None and declared != len(body):
        raise MalformedBody(f"Content-Length is {declared} bytes, but {len(body)} were received")
    return body, coding


def inflate(body: bytes, coding: str, limit: int) -> bytes:
    """Decompress a `gzip` or `deflate` body that may inflate to `limit` bytes.

    Only one gzip member is accepted: each further one costs a copy of all bytes after it, which many tiny members could
    abuse.
    """
    if coding == "gzip":
        inflater = zlib.decompressobj(_GZIP)
    else:
        # In RFC 9110 "deflate" is a zlib stream, but many clients send a raw one.
        inflater = zlib.decompressobj(zlib.MAX_WBITS if _has_zlib_header(body) else -zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedBody(f"the body is not {coding}: {error}") from None
    if len(plain) > limit:
        raise BodyTooLarge(f"the decompressed body is larger than {limit} bytes (MAX_BODY_BYTES)")
    if not inflater.eof:
        raise MalformedBody(f"the {coding} body is truncated")
    if inflater.unused_data:
        raise MalformedBody(f"{len(inflater.unused_data)} bytes follow the end of the {coding} body")
    return plain


async def _receive_all(receive: Receive, limit: int, timeout_s: float, body_memory: BodyMemoryBudget) -> bytes:
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    received = 0
    try:
        message = await _next_in_time(receive, started_at + min(timeout_s, BODY_GRACE_S))
        chunk = message.get("body", b"")
        if not message.get("more_body", False) and len(chunk) <= limit:
            return chunk  # the common case: one message, not copied
        chunks = []
        try:
            while True:
                if received + len(chunk) > limit:
                    raise BodyTooLarge(
                        f"a body may have at most {limit} bytes (MAX_BODY_BYTES), got {received + len(chunk)} or more"
                    )
                body_memory.reserve(len(chunk))
                received += len(chunk)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
                until = started_at + min(timeout_s, BODY_GRACE_S + received / MIN_BODY_BYTES_PER_S)
                message = await _next_in_time(receive, min(until, loop.time() + BODY_STALL_S))
                chunk = message.get("body", b"")
        finally:
            body_memory.release(received)
    except TimeoutError:
        waited_s = loop.time() - started_at
        raise BodyTimeout(f"only {received} bytes of the body arrived within {waited_s:.3g} s") from None


async def _next_in_time(receive: Receive, until: float) -> MutableMapping[str, Any]:
    """Return the next message. Raises TimeoutError at `until`, a time on the loop's clock."""
    try:
        async with asyncio.timeout_at(until):
            return await _next_message(receive)
    except TimeoutError:
        if asyncio.get_running_loop().time() - until < PAUSED_S:
            raise
        # This process was paused, and the kernel has buffered what arrived meanwhile: read once more.
        async with asyncio.timeout(PAUSED_S):
            return await _next_message(receive)


async def _next_message(receive: Receive) -> MutableMapping[str, Any]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone("the client disconnected while its body was read")
    return message


def _content_length(value: bytes, seen: int | None, limit: int) -> int:
    digits = value.strip()
    if not digits.isdigit():
        raise MalformedBody(f"Content-Length: expected a number of bytes, got {value[:40].decode('latin-1')!r}")
    if len(digits) > 18:  # int() of thousands of digits is slow, and fails from 4301 on
        raise BodyTooLarge(f"a body may have at most {limit} bytes (MAX_BODY_BYTES), got {len(digits)} digits")
    length = int(digits)
    if seen is not None and seen != length:
        raise MalformedBody(f"conflicting Content-Length headers: {seen} and {length}")
    if length > limit:
        raise BodyTooLarge(f"a body may have at most {limit} bytes (MAX_BODY_BYTES), got {length}")
    return length


def _content_coding(header: bytes) -> str:
    """Return "gzip", "deflate" or "" for none."""
    if not header:
        return ""
    coding = header.decode("latin-1").strip().lower()
    if coding in ("", "identity"):
        return ""
    if coding in ("gzip", "x-gzip"):
        return "gzip"
    if coding == "deflate":
        return "deflate"
    raise UnsupportedMedia(f"Content-Encoding: expected gzip, deflate or identity, got {coding[:40]!r}")


def _has_zlib_header(body: bytes) -> bool:
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
