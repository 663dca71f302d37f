"""Compresses responses with gzip or deflate, for clients that accept one of them."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache

from smartbatch.gateway.inference.codec import Response
from smartbatch.gateway.inference.parsing import LARGE_BYTES
from smartbatch.gateway.inference.request_services import RequestServices

MIN_BYTES = 1024  # a shorter response fits into one packet anyway
LEVEL = 1  # higher levels hardly improve the compression of numbers

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}  # deflate is a zlib stream (RFC 9110, 8.4.1.2)
_REFUSED = re.compile(r"q=0(\.0*)?$")


@lru_cache(maxsize=64)  # clients send few different headers
def choose(accept_encoding: str) -> str:
    """Return "gzip", "deflate" or "" for neither. If the client accepts both, the first one listed wins."""
    for part in accept_encoding.lower().split(","):
        coding, *parameters = (piece.strip() for piece in part.split(";"))
        if coding in _WINDOW_BITS and not any(map(_REFUSED.match, parameters)):
            return coding
    return ""


def is_worthwhile(response: Response) -> bool:
    return response.status == 200 and len(response.content) >= MIN_BYTES


async def compress(services: RequestServices, response: Response, coding: str) -> Response:
    """Compress a response, a long one in a thread. Returns it unchanged if compression doesn't make it shorter."""
    content = response.content
    if len(content) > LARGE_BYTES:
        shorter = await services.in_thread(_compress, content, coding)
    else:
        shorter = _compress(content, coding)
    if len(shorter) >= len(content):
        return response
    headers = [(b"content-encoding", coding.encode()), (b"vary", b"accept-encoding")]
    return Response(response.status, response.headers + headers, shorter)


def _compress(content: bytes, coding: str) -> bytes:
    compressor = zlib.compressobj(LEVEL, wbits=_WINDOW_BITS[coding])
    return compressor.compress(content) + compressor.flush()
