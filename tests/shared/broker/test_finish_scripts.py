"""Each condition of `finish` and `finish_plain`: which requests are finished, and what is published."""

from __future__ import annotations

import asyncio

import pytest

from smartbatch.shared.broker.connection.script import FINISH
from smartbatch.shared.broker.queue.claims import Entry, Outcome
from smartbatch.shared.broker.queue.replies import NOTICE_REPLY_BYTES, Inbox
from smartbatch.shared.keys import GROUP
from tests.brokers import Client
from tests.shared.broker.test_protocol import GATEWAY, KEYS, admission, claim, claims, request

LARGE = b"l" * 40_000
SUMS = ["#bytes", "#extra_rows"]


def inbox(client: Client) -> Inbox:
    return Inbox(client, KEYS, GATEWAY)


async def admitted(client: Client, *numbers: int, rows: int = 1) -> list[Entry]:
    """Admit and claim requests; return their entries."""
    await admission(client).admit([request(number, rows=rows) for number in numbers])
    return (await claim(client, hold_ms=0)).entries


async def admitted_again(client: Client) -> tuple[Entry, Entry]:
    """Make a request that was lost by Redis and admitted again while a worker holds its first entry. Return both
    entries."""
    [first] = await admitted(client, 1)
    await client.delete(KEYS.requests, KEYS.inflight)
    await asyncio.sleep(0.002)  # otherwise the new stream could assign the same entry id
    [second] = await admitted(client, 1)
    assert (first.id, first.entry_id != second.entry_id) == (second.id, True)
    return first, second


# --- the fence


@pytest.mark.parametrize(
    "reply",
    [pytest.param(b"late", id="finish_plain"), pytest.param(LARGE, id="finish"), pytest.param(b"", id="no reply")],
)
async def test_a_late_first_entry_does_not_finish_a_request_admitted_again(client: Client, reply: bytes) -> None:
    first, second = await admitted_again(client)
    assert await claims(client).finish([Outcome(first, reply)]) == 0
    assert await admission(client).are_inflight(["r1"]) == [True]
    assert await client.hmget(KEYS.inflight, SUMS) == [b"100", None]
    assert not await client.exists(KEYS.inbox(GATEWAY))
    assert [fields[b"id"] for _, fields in await client.xrange(KEYS.requests)] == [b"r1"]
    assert await claims(client).finish([Outcome(second, b"done")]) == 1
    assert await inbox(client).pop([]) == [("r1", 4, b"done")]


async def test_one_late_entry_in_a_batch_does_not_affect_the_others(client: Client) -> None:
    first, second = await admitted_again(client)
    [other] = await admitted(client, 2)
    assert await claims(client).finish([Outcome(first, b"late"), Outcome(other, b"done")]) == 1
    assert await inbox(client).pop([]) == [("r2", 4, b"done")]
    assert set(await client.hkeys(KEYS.inflight)) == {b"r1", b"#bytes", b"#about"}
    assert await claims(client).read(second.entry_id) is not None


async def test_a_late_dead_letter_of_a_request_admitted_again_sends_no_reply(client: Client) -> None:
    """The first entry is no longer on the stream, so no dead letter is written either."""
    first, _ = await admitted_again(client)
    assert await claims(client).finish([Outcome(first, b"sorry", "ended 3 workers")]) == 0
    assert not await client.exists(KEYS.dead, KEYS.reply("r1"), KEYS.inbox(GATEWAY))


# --- replies


@pytest.mark.parametrize("dead", ["", "ended 3 workers"], ids=["finish_plain", "finish"])
async def test_replies_and_inboxes_expire_and_nothing_else_does(client: Client, dead: str) -> None:
    first, _ = await admitted(client, 1, 2)
    assert await claims(client).finish([Outcome(first, b"done", dead)]) == 1
    for key in (KEYS.reply("r1"), KEYS.inbox(GATEWAY)):
        assert 55_000 < await client.pttl(key) <= 60_000
    for key in (KEYS.requests, KEYS.inflight, KEYS.leases):
        assert await client.pttl(key) == -1


async def test_finished_entries_are_neither_pending_nor_on_the_stream(client: Client) -> None:
    plain, large, _ = await admitted(client, 1, 2, 3)
    assert await claims(client).finish([Outcome(plain, b"done")]) == 1
    assert await claims(client).finish([Outcome(large, LARGE)]) == 1
    assert (await client.xpending(KEYS.requests, GROUP))["pending"] == 1
    assert [fields[b"id"] for _, fields in await client.xrange(KEYS.requests)] == [b"r3"]


async def test_large_and_small_replies_are_published_in_one_call(client: Client) -> None:
    entries = await admitted(client, 1, 2, 3)
    replies = [LARGE, b"small", LARGE]
    outcomes = [Outcome(entry, reply) for entry, reply in zip(entries, replies, strict=True)]
    assert await claims(client).finish(outcomes) == 3
    assert await inbox(client).pop([]) == [("r1", 40_000, None), ("r2", 5, b"small"), ("r3", 40_000, None)]
    assert await inbox(client).read(["r1", "r2", "r3"]) == replies


@pytest.mark.parametrize(("more", "carried"), [(0, True), (1, False)])
async def test_a_notice_carries_a_limited_number_of_bytes(client: Client, more: int, carried: bool) -> None:
    entries = await admitted(client, 1, 2)
    reply = b"r" * (NOTICE_REPLY_BYTES + more)
    outcomes = [Outcome(entry, reply, reason) for entry, reason in zip(entries, ("", "ended 3 workers"), strict=True)]
    assert await claims(client).finish(outcomes) == 2
    assert await inbox(client).pop([]) == [(name, len(reply), reply if carried else None) for name in ("r1", "r2")]
    assert await inbox(client).read(["r1", "r2"]) == [reply, reply]


async def test_a_large_reply_that_was_not_written_before_stops_the_whole_call(client: Client) -> None:
    entries = await admitted(client, 1, 2)
    with pytest.raises(Exception, match="a large reply is missing"):
        await finish_unwritten(client, entries)
    assert await admission(client).are_inflight(["r1", "r2"]) == [True, True]
    await client.set(KEYS.reply("r1"), LARGE)
    with pytest.raises(Exception, match="a large reply is missing"):
        await finish_unwritten(client, entries)
    await client.set(KEYS.reply("r2"), LARGE)
    assert await finish_unwritten(client, entries) == 2


async def test_a_missing_large_reply_is_no_error_for_an_entry_that_is_not_inflight(client: Client) -> None:
    first, _ = await admitted_again(client)
    [gone, other] = await admitted(client, 2, 3)
    await admission(client).cancel(["r2"])
    await client.set(KEYS.reply("r3"), LARGE)
    assert await finish_unwritten(client, [first, gone, other]) == 1
    assert await admission(client).are_inflight(["r1", "r2", "r3"]) == [True, False, False]


async def finish_unwritten(client: Client, entries: list[Entry]) -> int:
    """Send `finish` for large replies without the SETs that normally precede it."""
    keys = [KEYS.requests, KEYS.inflight, KEYS.dead, KEYS.inbox(GATEWAY), *[KEYS.reply(entry.id) for entry in entries]]
    args = [part for entry in entries for part in (entry.entry_id, entry.id, b"", "1|40000|0|")]
    return await FINISH.call(client, keys, [GROUP, 60_000, 60_000, 1000, NOTICE_REPLY_BYTES, 1, *args])


async def test_a_given_up_request_in_a_batch_has_no_reply(client: Client) -> None:
    entries = await admitted(client, 1, 2)
    assert await claims(client).finish([Outcome(entries[0]), Outcome(entries[1], b"done")]) == 2
    assert await inbox(client).pop([]) == [("r2", 4, b"done")]
    assert not await client.exists(KEYS.reply("r1"), KEYS.inflight)


async def test_a_stream_of_another_type_keeps_no_request_inflight(client: Client) -> None:
    plain, large, _ = await admitted(client, 1, 2, 3)
    await client.set(KEYS.requests, "mine")
    assert await claims(client).finish([Outcome(plain, b"done")]) == 1
    assert await claims(client).finish([Outcome(large, LARGE)]) == 1
    assert await admission(client).cancel(["r3"]) == 1
    assert await inbox(client).read(["r1", "r2"]) == [b"done", LARGE]
    assert not await client.exists(KEYS.inflight)


# --- sums


async def test_extra_rows_are_subtracted_with_their_requests(client: Client) -> None:
    await admission(client).admit([request(n, rows=rows) for n, rows in enumerate([2, 4, 1, 1, 1])])
    two, four, one, other, _ = (await claim(client)).entries
    assert await client.hmget(KEYS.inflight, SUMS) == [b"500", b"4"]
    for entry, reply, sums in (
        (one, b"done", [b"400", b"4"]),
        (four, LARGE, [b"300", b"1"]),
        (other, LARGE, [b"200", b"1"]),
        (two, b"done", [b"100", None]),
    ):
        assert await claims(client).finish([Outcome(entry, reply)]) == 1
        assert await client.hmget(KEYS.inflight, SUMS) == sums
    assert set(await client.hkeys(KEYS.inflight)) == {b"r4", b"#bytes", b"#about"}


# --- dead letters


async def letter(client: Client) -> dict[bytes, bytes]:
    [(_, fields)] = await client.xrange(KEYS.dead)
    return fields


async def test_a_dead_letter_of_a_deleted_entry_keeps_its_id(client: Client) -> None:
    [entry] = await admitted(client, 1)
    await client.xdel(KEYS.requests, entry.entry_id)
    assert await claims(client).finish([Outcome(entry, b"sorry", "ended 3 workers")]) == 1
    assert await letter(client) == {
        b"reason": b"ended 3 workers",
        b"entry_id": entry.entry_id.encode(),
        b"deliveries": b"0",
        b"id": b"r1",
    }


async def test_a_dead_letter_of_unknown_deliveries_has_none(client: Client) -> None:
    one, two = await admitted(client, 1, 2)
    await client.xack(KEYS.requests, GROUP, one.entry_id)
    assert await claims(client).finish([Outcome(one, b"sorry", "ended 3 workers")]) == 1
    assert (await letter(client))[b"deliveries"] == b"0"
    await client.delete(KEYS.dead)
    await client.xgroup_destroy(KEYS.requests, GROUP)
    assert await claims(client).finish([Outcome(two, b"sorry", "ended 3 workers")]) == 1
    assert ((await letter(client))[b"id"], (await letter(client))[b"deliveries"]) == (b"r2", b"0")
    assert await client.get(KEYS.reply("r2")) == b"sorry"


async def test_about_the_last_thousand_dead_letters_are_kept(client: Client) -> None:
    async with client.pipeline(transaction=False) as pipe:
        for _ in range(2500):
            pipe.xadd(KEYS.dead, {"reason": "long ago"})
        await pipe.execute()
    [entry] = await admitted(client, 1)
    await claims(client).finish([Outcome(entry, b"sorry", "ended 3 workers")])
    assert 1000 <= await client.xlen(KEYS.dead) <= 1200  # the stream is trimmed by whole nodes
    [(_, last)] = await client.xrevrange(KEYS.dead, count=1)
    assert last[b"id"] == b"r1"


async def test_dead_letters_and_replies_are_published_in_one_call(client: Client) -> None:
    entries = await admitted(client, 1, 2, 3)
    reasons = ["", "ended 3 workers", ""]
    outcomes = [Outcome(entry, b"text", reason) for entry, reason in zip(entries, reasons, strict=True)]
    assert await claims(client).finish(outcomes) == 3
    assert (await letter(client))[b"id"] == b"r2"
    assert [notice.request_id for notice in await inbox(client).pop([])] == ["r1", "r2", "r3"]
