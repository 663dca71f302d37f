"""Malformed and damaged entries become dead letters, get an error reply and affect no other entry."""

from __future__ import annotations

import pytest

from smartbatch.shared.broker.queue.claims import Outcome, parse_entry
from smartbatch.shared.broker.queue.replies import Inbox
from tests.brokers import Client
from tests.entries import entry_fields
from tests.shared.broker.test_protocol import GATEWAY, KEYS, admission, claim, claims, request

NUMBERS = ("t", "bytes", "rows", "timeout_ms")
GOOD = entry_fields()
MALFORMED: list[dict] = [
    {"hello": "world"},
    {"payload": b"\xff" * 100},
    {name: GOOD[name] for name in list(GOOD)[:-1]},
    {name: GOOD[name] for name in reversed(GOOD)},
    GOOD | {"and": "more"},
    *(GOOD | {"header": text} for text in ("", "|", "gw|1|3|1|5000|raw", "gw|1|" + "9" * 5000)),
    *(entry_fields(**{name: text}) for name in NUMBERS for text in ("", "x", "1.5", "nan", "-1")),
    entry_fields(rows="0"),
    entry_fields(rows="1" + "0" * 5000),
    entry_fields(timeout_ms="9" * 400),
    entry_fields(timeout_ms="9" * 12),
    *(entry_fields(**{name: b"\xff\xfe"}) for name in ("id", "gateway", "kind", "trace")),
]


@pytest.mark.parametrize("extra_rows", [False, True])
async def test_malformed_entries_are_claimed_along_with_others(client: Client, extra_rows: bool) -> None:
    await admission(client).admit([request(1, rows=2 if extra_rows else 1)])
    for fields in MALFORMED:
        await client.xadd(KEYS.requests, fields)
    await admission(client).admit([request(2)])
    entries = []
    while len(entries) < len(MALFORMED) + 2:
        entries += (await claim(client, room_rows=64)).entries
    assert [entry.id for entry in entries if not entry.malformed] == ["r1", "r2"]
    first, *malformed, last = entries
    assert all(entry.malformed for entry in malformed)
    assert {entry.rows for entry in malformed} == {0}
    # finished together and twice, as after a lost reply
    outcomes = [Outcome(entry, b"error", f"malformed: {entry.malformed}") for entry in malformed]
    for _ in range(2):
        assert await claims(client).finish(outcomes) == 0
    assert await claims(client).finish([Outcome(first, b"done"), Outcome(last, b"done")]) == 2
    assert await client.xlen(KEYS.requests) == 0
    letters = [fields for _, fields in await client.xrange(KEYS.dead)]
    assert len(letters) == len(MALFORMED)
    assert letters[0][b"reason"] == b"malformed: its fields are not id, header and payload"
    assert letters[0][b"hello"] == b"world"


async def test_a_damaged_entry_of_an_inflight_request_gets_an_error_reply(client: Client) -> None:
    [entry_id] = [await client.xadd(KEYS.requests, entry_fields(rows="many"))]
    await client.hset(KEYS.inflight, mapping={"r1": entry_id + b"|3|1", "#bytes": "3"})
    [entry] = (await claim(client)).entries
    assert entry.malformed == "its id or header has an invalid number or invalid UTF-8"
    assert await claims(client).finish([Outcome(entry, b"error", "malformed")]) == 1
    assert await client.get(KEYS.reply("r1")) == b"error"
    assert await Inbox(client, KEYS, GATEWAY).pop([]) == [("r1", 5, b"error")]


async def test_the_payload_of_a_damaged_entry_is_removed_with_it(client: Client) -> None:
    [entry_id] = [await client.xadd(KEYS.requests, entry_fields(rows="many"))]
    await client.hset(KEYS.inflight, mapping={"r1": entry_id + b"|3|1", "#bytes": "3"})
    await client.set(KEYS.body("r1"), b"large")
    [entry] = (await claim(client)).entries
    assert await claims(client).finish([Outcome(entry, b"cancelled")]) == 1
    assert not await client.exists(KEYS.body("r1"))


ODD_NOTICES = [b"", b"|", b"r1", b"r1|", b"r1|x", b"r1|x|y", b"\xff|1", b"r1|" + b"9" * 5000, b"r1|3|four", b"r1|0|"]


@pytest.mark.parametrize("notice", ODD_NOTICES)
async def test_a_malformed_notice_does_not_stop_the_inbox(client: Client, notice: bytes) -> None:
    await client.rpush(KEYS.inbox(GATEWAY), notice, b"r2|7", b"r3|5|a|b|c")
    odd, *others = await Inbox(client, KEYS, GATEWAY).pop([])
    assert odd.reply is None  # no client receives it
    assert others == [("r2", 7, None), ("r3", 5, b"a|b|c")]


def test_a_gateways_entry_is_not_malformed() -> None:
    fields = [part if isinstance(part, bytes) else part.encode() for pair in GOOD.items() for part in pair]
    entry = parse_entry((b"1-0", fields), 3)
    assert (entry.malformed, entry.id, entry.rows, entry.payload, entry.deliveries) == ("", "r1", 1, b"abc", 3)


def test_a_trace_may_contain_the_headers_separator() -> None:
    header = entry_fields(trace="00-1-2-01 17 a=x|y")["header"]
    assert parse_entry((b"1-0", [b"id", b"r1", b"header", header, b"payload", b"abc"])).trace == "00-1-2-01 17 a=x|y"
