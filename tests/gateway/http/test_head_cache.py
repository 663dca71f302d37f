"""What is known again is what the parser would have read: never another request, never half of one."""

from __future__ import annotations

from typing import Any

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smartbatch.gateway.http.head_cache import HeadCache
from smartbatch.gateway.http.heads import Head

HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\ncontent-length: %d\r\nAccept: */*\r\n\r\n"
FIRST = HEAD % 5 + b"hello"
PARSED = Head(b"POST", "1.1", "/predict", b"/predict", b"", [(b"host", b"x")], False)


class Parsed:
    """What the parser makes of one read."""

    def __init__(self, data: bytes) -> None:
        self.url, self.body, self.messages = b"", b"", 0
        self.headers: list[tuple[bytes, bytes]] = []
        parser: Any = httptools.HttpRequestParser(self)
        parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1

    @property
    def head(self) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """All but what may differ."""
        return self.url, [header for header in self.headers if header[0] != b"content-length"]


def first() -> HeadCache:
    likeness = HeadCache.of(FIRST, PARSED, 5)
    assert likeness is not None
    return likeness


@pytest.mark.parametrize("body", [b"hello", b"", b"x", b"x" * 100_000, b"\r\n\r\n"])
def test_another_length_is_all_that_may_differ(body: bytes) -> None:
    assert first().body_of(HEAD % len(body) + body) == body


@pytest.mark.parametrize(
    "data",
    [
        FIRST[:-1],  # the rest comes later
        FIRST + b"P",  # the next one has begun
        FIRST + FIRST,
        HEAD % 5,
        b"",
        FIRST.replace(b"Host: x", b"Host: y"),
        FIRST.replace(b"content-length: 5", b"content-length:  5"),
        FIRST.replace(b"content-length: 5", b"content-length: +5"),
        FIRST.replace(b"content-length: 5", b"content-length: 5 "),
        FIRST.replace(b"content-length: 5", b"content-length: "),
        FIRST.replace(b"content-length: 5", b"content-length: 0000000005"),
        FIRST.replace(b"\r\nAccept", b"\r\nContent-Length: 5\r\nAccept"),
        FIRST.replace(b"\r\nAccept", b"\r\nTransfer-Encoding: chunked\r\nAccept"),
    ],
)
def test_anything_else_is_left_to_the_parser(data: bytes) -> None:
    assert first().body_of(data) is None


@pytest.mark.parametrize(
    ("data", "body_bytes"),
    [
        (FIRST + b"POST ", 5),  # more than one request
        (FIRST[:-1], 5),
        (b"x" + FIRST, 5),  # the end of one that was answered early
        (b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 5),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\n\r\n", 0),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 5),
        (b"POST /predict HTTP/1.1\r\nX: 1\r\n content-length: 5\r\n\r\nhello", 5),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 5 \r\n\r\nhello", 5),
        (b"POST /predict HTTP/1.1\nContent-Length: 5\n\nhello", 5),
    ],
)
def test_only_a_whole_request_of_the_usual_form_is_remembered(data: bytes, body_bytes: int) -> None:
    assert HeadCache.of(data, PARSED, body_bytes) is None


@given(
    st.lists(st.tuples(st.integers(0, len(FIRST)), st.integers(0, 3), st.binary(max_size=3)), max_size=3),
    st.binary(max_size=30),
)
@example([], b"")
def test_what_is_known_again_is_what_the_parser_reads(edits: list[tuple[int, int, bytes]], body: bytes) -> None:
    data = HEAD % len(body) + body
    for at, removed, inserted in edits:
        data = data[:at] + inserted + data[at + removed :]
    known = first().body_of(data)
    if known is not None:
        parsed = Parsed(data)
        assert (parsed.messages, parsed.body, parsed.head) == (1, known, Parsed(FIRST).head)
