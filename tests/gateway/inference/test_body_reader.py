from __future__ import annotations

import asyncio
import contextlib
import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.gateway.core.body_memory import BodyMemoryBudget
from smartbatch.gateway.inference import body_reader
from smartbatch.gateway.inference.body_reader import inflate, read_body
from smartbatch.shared.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    MalformedBody,
    ReceivingFull,
    UnsupportedMedia,
)

GONE = {"type": "http.disconnect"}


class Client:
    """Sends the chunks as ASGI messages; None disconnects."""

    def __init__(self, *chunks: bytes | None) -> None:
        self.messages = [
            GONE if chunk is None else {"type": "http.request", "body": chunk, "more_body": i < len(chunks) - 1}
            for i, chunk in enumerate(chunks)
        ]
        self.started = 0

    async def __call__(self):
        self.started += 1
        return self.messages.pop(0)


async def read(client: Client, limit: int = 100, **headers: bytes) -> bytes:
    named = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    body, coding = await read_body({"type": "http", "headers": named}, client, limit)
    return inflate(body, coding, limit) if coding else body


async def test_body_of_one_message_is_not_copied():
    body = bytes(50)
    assert await read(Client(body), content_length=b"50") is body


async def test_chunks_are_joined():
    assert await read(Client(b"ab", b"", b"c")) == b"abc"
    assert await read(Client(b"x" * 60, b"y" * 40)) == b"x" * 60 + b"y" * 40
    assert await read(Client(b"")) == b""


async def test_message_without_a_body_counts_as_empty():
    async def receive():
        return {"type": "http.request"}

    assert await read_body({"headers": []}, receive, 10) == (b"", "")


async def test_content_length_over_the_limit_is_rejected_before_reading():
    client = Client(b"x" * 101)
    with pytest.raises(BodyTooLarge, match=r"100 bytes \(MAX_BODY_BYTES\), got 101"):
        await read(client, content_length=b"101")
    assert client.started == 0


async def test_chunked_body_is_rejected_once_it_exceeds_the_limit():
    client = Client(b"x" * 60, b"x" * 60, b"x" * 60)
    with pytest.raises(BodyTooLarge, match=r"MAX_BODY_BYTES.*got 120 or more"):
        await read(client)
    assert client.started == 2


async def test_one_message_over_the_limit_is_rejected():
    with pytest.raises(BodyTooLarge, match="got 101 or more"):
        await read(Client(b"x" * 101))


@pytest.mark.parametrize("length", [b"", b"-1", b"+5", b"5x", b"1_0", b"0x5", "٥".encode(), b"5.0"])
async def test_non_numeric_content_length_is_malformed(length):
    with pytest.raises(MalformedBody, match="Content-Length"):
        await read(Client(b"12345"), content_length=length)


async def test_content_length_of_thousands_of_digits_is_too_large():
    with pytest.raises(BodyTooLarge):
        await read(Client(b""), content_length=b"9" * 5000)


@pytest.mark.parametrize("length", [b"4", b"6"])
async def test_wrong_content_length_is_malformed(length):
    with pytest.raises(MalformedBody, match="but 5 were received"):
        await read(Client(b"12345"), content_length=length)


async def test_two_content_lengths_must_agree():
    headers = [(b"content-length", b"1"), (b"content-length", b"2")]
    with pytest.raises(MalformedBody, match="conflicting Content-Length headers"):
        await read_body({"headers": headers}, Client(b"1"), 10)


@pytest.mark.parametrize("chunks", [(None,), (b"ab", None)])
async def test_disconnect_while_reading_is_client_gone(chunks):
    with pytest.raises(ClientGone):
        await read(Client(*chunks))


# --- compressed bodies


def deflated(body: bytes, bits: int) -> bytes:
    squeezer = zlib.compressobj(wbits=bits)
    return squeezer.compress(body) + squeezer.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (b"gzip", gzip.compress(b"hello", mtime=0)),
        (b"X-GZIP ", gzip.compress(b"hello", mtime=0)),
        (b"deflate", deflated(b"hello", 15)),
        (b"deflate", deflated(b"hello", -15)),
        (b"identity", b"hello"),
        (b"", b"hello"),
    ],
)
async def test_compressed_body_is_inflated(encoding, body):
    length = str(len(body)).encode()
    assert await read(Client(body), content_encoding=encoding, content_length=length) == b"hello"


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"gzip, gzip", b"\xff"])
async def test_other_encodings_are_unsupported_before_anything_is_read(encoding):
    client = Client(b"x")
    with pytest.raises(UnsupportedMedia, match="gzip, deflate or identity"):
        await read(client, content_encoding=encoding)
    assert client.started == 0


async def test_repeated_content_encoding_is_unsupported():
    headers = [(b"content-encoding", b"gzip"), (b"content-encoding", b"gzip")]
    with pytest.raises(UnsupportedMedia):
        await read_body({"headers": headers}, Client(b"x"), 10)


def test_bomb_is_rejected_without_being_inflated():
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    tracemalloc.start()
    with pytest.raises(BodyTooLarge, match="larger than 100000 bytes"):
        inflate(bomb, "gzip", 100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_body_that_inflates_to_exactly_the_limit_is_accepted():
    assert inflate(gzip.compress(bytes(100)), "gzip", 100) == bytes(100)
    with pytest.raises(BodyTooLarge):
        inflate(gzip.compress(bytes(101)), "gzip", 100)


@pytest.mark.parametrize(
    "body", [b"", b"no", gzip.compress(b"hello", mtime=0)[:-1], gzip.compress(b"hello", mtime=0)[:12]]
)
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_broken_stream_is_malformed(body, coding):
    with pytest.raises(MalformedBody):
        inflate(body, coding, 100)


@pytest.mark.parametrize("tail", [b"x", gzip.compress(b"second member", mtime=0)])
def test_bytes_after_the_stream_are_malformed(tail):
    with pytest.raises(MalformedBody, match="follow the end"):
        inflate(gzip.compress(b"hello", mtime=0) + tail, "gzip", 100)


@given(st.binary(max_size=60), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_inflate_or_are_rejected(body, coding):
    with contextlib.suppress(MalformedBody, BodyTooLarge):
        assert len(inflate(body, coding, 1000)) <= 1000


class Slow(Client):
    """Sends a chunk every 50 ms without end."""

    async def __call__(self):
        self.started += 1
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}


async def test_slow_body_is_aborted_long_before_the_timeout(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(body_reader, "BODY_GRACE_S", 0.3)
    with pytest.raises(BodyTimeout, match=r"only \d+ bytes of the body arrived within 0\.3"):
        await read(Slow(), limit=10_000)


async def test_body_that_is_fast_enough_may_take_longer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(body_reader, "BODY_GRACE_S", 0.3)
    monkeypatch.setattr(body_reader, "MIN_BODY_BYTES_PER_S", 10)
    with pytest.raises(BodyTooLarge):
        await read(Slow(), limit=100)


async def test_body_that_stops_in_the_middle_is_aborted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(body_reader, "BODY_STALL_S", 0.2)
    sent = [{"type": "http.request", "body": bytes(1_000_000), "more_body": True}]

    async def receive():
        return sent.pop() if sent else await asyncio.Future()

    with pytest.raises(BodyTimeout, match=r"only 1000000 bytes of the body arrived within 0\.2"):
        await read_body({"headers": []}, receive, 2_000_000)


async def test_bodies_being_received_share_a_memory_budget_and_release_it():
    body_memory = BodyMemoryBudget(100)
    with pytest.raises(ReceivingFull):
        body_memory.reserve(60)
        body_memory.reserve(41)
    body_memory.release(60)
    assert await read_body({"headers": []}, Client(b"x" * 60, b"y" * 40), 1000, body_memory=body_memory) == (
        b"x" * 60 + b"y" * 40,
        "",
    )
    for bad in (Client(b"x" * 60, b"y" * 41), Client(b"x" * 60, None)):
        with pytest.raises((ReceivingFull, ClientGone)):
            await read_body({"headers": []}, bad, 1000, body_memory=body_memory)
    assert body_memory.bytes == 0
