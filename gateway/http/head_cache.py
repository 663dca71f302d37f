"""Requests of one connection resemble each other: clients send the same head again and again, and only the length of
what follows changes. So the head is compared with the one before, and what is the same isn't parsed again.

Nothing is taken for a request here that the parser wouldn't take for the same one: a head is remembered only once
the parser has read it, as all that came in one read beside its body, and is known again only where a new request must
begin.
"""

from __future__ import annotations

import re

from smartbatch.gateway.http.heads import Head

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})(?=\r\n)", re.IGNORECASE)
_MAX_DIGITS = 9
MAX_HEAD_BYTES = 4096  # each connection may hold so much for it, for as long as it is open


class HeadCache:
    """What a request was like. Made of one; asked about the next."""

    __slots__ = ("_after", "_before", "head")

    def __init__(self, head: Head, before: bytes, after: bytes) -> None:
        self.head = head
        self._before = before  # the head's bytes up to the digits of Content-Length
        self._after = after  # those after them

    @staticmethod
    def of(data: bytes, head: Head, body_bytes: int) -> HeadCache | None:
        """Remember a request: `data` is what was read, `head` and `body_bytes` what the parser made of it. None if
        that wasn't all, or its length isn't said in the usual way."""
        end = len(data) - body_bytes
        if end > MAX_HEAD_BYTES or data.find(b"\r\n\r\n") + 4 != end:
            return None
        if not data.startswith(head.method + b" " + head.raw_path):  # the end of another request comes first
            return None
        found = list(_LENGTH.finditer(data, 0, end))
        if len(found) != 1 or int(found[0][1]) != body_bytes:
            return None
        start, stop = found[0].span(1)
        return HeadCache(head, data[:start], data[stop:end])

    def body_of(self, data: bytes) -> bytes | None:
        """Return the body if `data` is one whole request with the same head but for Content-Length; else None."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return None
        start = len(before)
        stop = data.find(b"\r", start, start + _MAX_DIGITS + 1)
        if stop < 0:
            return None
        digits = data[start:stop]
        begin = stop + len(after)
        if not digits.isdigit() or not data.startswith(after, stop) or begin + int(digits) != len(data):
            return None
        return data[begin:]
