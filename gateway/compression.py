"""Compressed responses: gzip or deflate, for a client that takes one of them and where it makes a response shorter."""

from __future__ import annotations

import re
import zlib

MIN_BYTES = 1024  # a shorter one fits a packet either way
LEVEL = 1  # numbers hardly get shorter by trying harder

_WRAPPERS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}  # deflate is a zlib stream (RFC 9110, 8.4.1.2)
_REFUSED = re.compile(r"q=0(\.0*)?$")


def choose(accept_encoding: str) -> str:
    """Return "gzip", "deflate" or "" for neither. Where both are welcome the first wins."""
    for part in accept_encoding.lower().split(","):
        coding, *parameters = (piece.strip() for piece in part.split(";"))
        if coding in _WRAPPERS and not any(map(_REFUSED.match, parameters)):
            return coding
    return ""


def compress(content: bytes, coding: str) -> bytes:
    compressor = zlib.compressobj(LEVEL, wbits=_WRAPPERS[coding])
    return compressor.compress(content) + compressor.flush()
