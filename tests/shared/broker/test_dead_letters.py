"""Dead letters on real brokers: their content, requeueing, and that nothing is left behind."""

from __future__ import annotations

import asyncio

import pytest

from smartbatch.shared.broker.admin.dead_letters import DeadLetter, DeadLetters, Requeue
from smartbatch.shared.broker.connection.multiplexed import BLOCK_S
from smartbatch.shared.broker.queue.claims import Entry, Outcome, WorkerQueue
from smartbatch.shared.errors import ModelFailed, QueueFull, SmartBatchError
from smartbatch.shared.keys import Keys
from smartbatch.shared.wire import Reply, Result, pack_reply
from tests.brokers import Broker, Client
from tests.shared.broker.test_protocol import KEYS, admission, claim, claims, request

LARGE = b"y" * 100_000
ANSWER = pack_reply(Reply(Result(values=["well"])))


async def dead_lettered(client: Client, *payloads: bytes, reason: str = "ended 3 workers") -> list[DeadLetter]:
    """Admit a request per payload, claim it and make it a dead letter. Return the letters, oldest first."""
    await admission(client).admit([request(n, payload=payload) for n, payload in enumerate(payloads)])
    claimed = await claim(client, hold_ms=0)
    await claims(client).finish([Outcome(entry, b"sorry", reason) for entry in claimed.entries])
    return (await DeadLetters(client, KEYS).newest())[::-1]


@pytest.fixture
async def blocking(any_broker: Broker):
    client = Client(any_broker.url, block_s=BLOCK_S)
    yield client
    await client.aclose()


def requeue(client: Client, blocking: Client, max_entries: int = 100) -> Requeue:
    return Requeue(client, blocking, KEYS, max_entries=max_entries, max_bytes=1_000_000, reply_ttl_s=60)


async def work(client: Client, reply: bytes = ANSWER, dead_reason: str = "") -> Entry:
    """Act as the worker for one entry."""
    while not (claimed := await claim(client, "w2")).entries:
        await asyncio.sleep(0.01)
    [entry] = claimed.entries
    await WorkerQueue(client, client, KEYS, "w2", lease_ms=2000, reply_ttl_s=60).finish(
        [Outcome(entry, reply, dead_reason)]
    )
    return entry


async def is_empty(client: Client) -> bool:
    """Return whether only empty streams, the leases and the wakeup are left."""
    kept = (KEYS.requests, KEYS.dead, KEYS.leases, KEYS.fill_lock, KEYS.wakeup)
    left = set(await client.keys("*")) - {key.encode() for key in kept}
    return left == set() and await client.xlen(KEYS.requests) == await client.xlen(KEYS.dead) == 0


async def test_letters_are_listed_newest_first_with_reason_and_deliveries(client: Client) -> None:
    first, second = await dead_lettered(client, b"one", b"two", reason="ended [3] workers")
    assert [letter.id for letter in await DeadLetters(client, KEYS).newest(1)] == [second.id]
    assert (first.reason, first.entry.id, first.entry.payload, first.deliveries) == (
        "ended [3] workers",
        "r0",
        b"one",
        0,
    )
    assert first.died_ms >= first.entry.t_ms


async def test_deliveries_exclude_the_one_at_which_it_became_a_letter(client: Client) -> None:
    await admission(client).admit([request(1)])
    [entry] = (await claim(client)).entries
    await client.xclaim(KEYS.requests, "workers", "w2", 0, [entry.entry_id])
    await client.xclaim(KEYS.requests, "workers", "w3", 0, [entry.entry_id])
    await claims(client).finish([Outcome(entry, b"sorry", "ended 2 workers")])
    [letter] = await DeadLetters(client, KEYS).newest()
    assert letter.deliveries == 2


async def test_a_letter_without_its_entry_can_be_shown_and_dropped(client: Client) -> None:
    await client.xadd(KEYS.dead, {"reason": "ended 3 workers", "entry_id": "1-0", "id": "r1"})
    letters = DeadLetters(client, KEYS)
    [letter] = await letters.newest()
    assert (letter.entry.id, letter.entry.rows, letter.deliveries) == ("r1", 0, 0)
    assert await letters.payload(letter) is None
    assert await letters.drop([letter]) == 1


async def test_an_external_payload_is_kept_for_a_week_and_removed_with_its_letter(client: Client) -> None:
    [letter] = await dead_lettered(client, LARGE)
    letters = DeadLetters(client, KEYS)
    assert letter.entry.payload == b""
    assert await letters.payload(letter) == LARGE
    assert 6.9 * 24 * 3600 < await client.ttl(KEYS.body("r0")) <= 7 * 24 * 3600
    assert await letters.drop([letter, letter]) == 1
    assert await letters.drop([letter]) == 0
    await client.unlink(KEYS.reply("r0"), KEYS.inbox("gw"))
    assert await is_empty(client)


@pytest.mark.parametrize("payload", [b"small", LARGE], ids=["inline", "apart"])
async def test_requeueing_runs_a_letter_as_a_new_request_delivered_once(
    client: Client, blocking: Client, payload: bytes
) -> None:
    [letter] = await dead_lettered(client, payload)
    again = requeue(client, blocking)
    request_id = await again.submit(letter, 5)
    assert request_id == f"requeue-{letter.id}"
    assert set(await client.hkeys(KEYS.inflight)) == {request_id.encode(), b"#bytes", b"#about"}
    working = asyncio.create_task(work(client))
    reply = await again.wait_for_reply(request_id, 5)
    assert reply is not None and reply.result is not None and reply.result.values == ["well"]
    entry = await working
    assert (entry.id, entry.deliveries, entry.timeout_ms, entry.bytes) == (request_id, 1, 5000, len(payload))
    assert await DeadLetters(client, KEYS).drop([letter]) == 1
    await again.close()
    await client.unlink(KEYS.reply("r0"), KEYS.inbox("gw"))
    assert await is_empty(client)


async def test_the_external_payload_of_a_requeued_letter_remains_until_it_is_dropped(
    client: Client, blocking: Client
) -> None:
    [letter] = await dead_lettered(client, LARGE)
    request_id = await requeue(client, blocking).submit(letter, 5)
    assert await client.get(KEYS.body(request_id)) == LARGE
    assert await client.get(KEYS.body("r0")) == LARGE


async def test_requeueing_a_letter_twice_runs_it_once_and_returns_both_times(client: Client, blocking: Client) -> None:
    [letter] = await dead_lettered(client, b"x")
    one, two = requeue(client, blocking), requeue(client, blocking)
    request_id = await one.submit(letter, 5)
    assert await two.submit(letter, 5) == request_id
    assert await client.xlen(KEYS.requests) == 1
    await work(client)
    assert (await two.wait_for_reply(request_id, 5)) is not None


async def test_a_requeued_letter_that_kills_again_becomes_a_new_letter(client: Client, blocking: Client) -> None:
    [letter] = await dead_lettered(client, LARGE)
    again = requeue(client, blocking)
    request_id = await again.submit(letter, 5)
    await work(client, pack_reply(Reply(error=ModelFailed("dead again"))), "ended 3 workers again")
    reply = await again.wait_for_reply(request_id, 5)
    assert reply is not None and str(reply.error) == "dead again"
    letters = DeadLetters(client, KEYS)
    await letters.drop([letter])
    [new] = await letters.newest()
    assert (new.reason, new.entry.id, await letters.payload(new)) == ("ended 3 workers again", request_id, LARGE)


async def test_a_requeued_letter_that_is_not_run_is_cancelled_and_kept(client: Client, blocking: Client) -> None:
    [letter] = await dead_lettered(client, b"x")
    again = requeue(client, blocking)
    request_id = await again.submit(letter, 0.1)
    assert await again.wait_for_reply(request_id, -1) is None
    assert await client.xlen(KEYS.requests) == 0
    assert await client.exists(KEYS.inflight) == 0
    assert await DeadLetters(client, KEYS).count() == 1


async def test_an_earlier_reply_is_not_used_for_a_requeued_letter(client: Client, blocking: Client) -> None:
    [letter] = await dead_lettered(client, b"x")
    again = requeue(client, blocking)
    await client.set(KEYS.reply(letter.new_request_id), b"old")
    await again.submit(letter, 5)
    assert await client.exists(KEYS.reply(letter.new_request_id)) == 0


async def test_a_full_queue_or_an_expired_payload_keeps_the_letter(client: Client, blocking: Client) -> None:
    small, large = await dead_lettered(client, b"x", LARGE)
    await client.unlink(KEYS.body("r1"))
    with pytest.raises(SmartBatchError, match="its payload has expired, so it can't be run again"):
        await requeue(client, blocking).submit(large, 5)
    await admission(client).admit([request(7)])
    with pytest.raises(QueueFull, match=r"the queue is full \(1 waiting\); it stays a dead letter"):
        await requeue(client, blocking, max_entries=1).submit(small, 5)
    assert await DeadLetters(client, KEYS).count() == 2


async def test_unknown_letters_are_not_found(client: Client) -> None:
    [letter] = await dead_lettered(client, b"x")
    found = await DeadLetters(client, KEYS).find([letter.id, "1-1"])
    assert [each and each.id for each in found] == [letter.id, None]
    assert await DeadLetters(client, Keys("other")).find([letter.id]) == [None]
