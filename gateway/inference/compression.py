"""Compressed responses: gzip or deflate, for a client that takes one of them and where it makes a response shorter."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache

from smartbatch.gateway.inference.request import Response
from smartbatch.gateway.services import LARGE_BYTES, GatewayServices

MIN_BYTES = 1024  # a shorter one fits a packet either way
LEVEL = 1  # numbers hardly get shorter by trying harder

_WRAPPERS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}  # deflate is a zlib stream (RFC 9110, 8.4.1.2)
_REFUSED = re.compile(r"q=0(\.0*)?$")


@lru_cache(maxsize=64)  # clients send few different ones
def choose(accept_encoding: str) -> str:
    """Return "gzip", "deflate" or "" for neither. Where both are welcome the first wins."""
    for part in accept_encoding.lower().split(","):
        coding, *parameters = (piece.strip() for piece in part.split(";"))
        if coding in _WRAPPERS and not any(map(_REFUSED.match, parameters)):
            return coding
    return ""


def wanted(response: Response, coding: str) -> bool:
    """Whether an answer is to be compressed, to a client that takes `coding`."""
    return bool(coding) and response.status == 200 and len(response.content) >= MIN_BYTES


async def compressed(gateway: GatewayServices, response: Response, coding: str) -> Response:
    """Compress an answer if it gets shorter by it: a long one beside the event loop."""
    content = response.content
    if len(content) > LARGE_BYTES:
        shorter = await gateway.in_thread(_compress, content, coding)
    else:
        shorter = _compress(content, coding)
    if len(shorter) >= len(content):
        return response
    headers = [(b"content-encoding", coding.encode()), (b"vary", b"accept-encoding")]
    return Response(response.status, response.headers + headers, shorter)


def _compress(content: bytes, coding: str) -> bytes:
    compressor = zlib.compressobj(LEVEL, wbits=_WRAPPERS[coding])
    return compressor.compress(content) + compressor.flush()
