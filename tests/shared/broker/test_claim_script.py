"""Each condition of `claim` and `release` by itself: what is claimed, who holds the turn then, and whether the bell
rings."""

from __future__ import annotations

from typing import Any

import pytest

from smartbatch.shared.broker.queue.claims import Claim, DeadWorker
from smartbatch.shared.keys import GROUP
from tests.brokers import Client
from tests.entries import entry_fields
from tests.shared.broker.test_protocol import KEYS, admission, claim, claims, request


async def admit(client: Client, *numbers: int, rows: int = 1) -> None:
    await admission(client).admit([request(number, rows=rows) for number in numbers])


def ids(claimed: Claim) -> list[str]:
    return [entry.id for entry in claimed.entries]


async def stream_ids(client: Client) -> list[str]:
    return [entry_id.decode() for entry_id, _ in await client.xrange(KEYS.requests)]


async def fill(client: Client, worker_id: str) -> None:
    """Have the worker hold the turn: it filled a batch from the one entry there was."""
    await admit(client, 0)
    await claim(client, worker_id)
    assert await client.get(KEYS.fill_lock) == worker_id.encode()


async def left_behind(client: Client, count: int) -> None:
    """Put entries on the stream that count as waiting and that no claim can read: acknowledged and never deleted."""
    for _ in range(count):
        await client.xadd(KEYS.requests, entry_fields())
    streams = await client.xreadgroup(GROUP, "gone", {KEYS.requests: ">"}, count=count)
    await client.xack(KEYS.requests, GROUP, *[entry_id for entry_id, _ in streams[0][1]])


# --- what waits


async def test_another_group_on_the_stream_is_not_taken_for_the_workers(client: Client) -> None:
    await client.xgroup_create(KEYS.requests, "another", "0", mkstream=True)
    await admit(client, 1, 2, 3)
    claimed = await claim(client, room_rows=2)
    assert (ids(claimed), claimed.waiting) == (["r1", "r2"], 1)
    assert {group["name"]: group["pending"] for group in await client.xinfo_groups(KEYS.requests)} == {
        b"another": 0,
        b"workers": 2,
    }


async def test_what_is_claimed_does_not_wait_any_more_and_is_still_open(client: Client) -> None:
    await admit(client, 1, 2, 3)
    await claim(client, room_rows=2)
    answer = await admission(client).admit([request(4)])
    assert (answer.waiting, answer.open_rows) == (2, 4)
    assert (await claim(client, room_rows=1)).waiting == 1


async def test_entries_that_no_gateway_wrote_are_claimed_though_nothing_is_open(client: Client) -> None:
    await client.xadd(KEYS.requests, entry_fields())
    claimed = await claim(client)
    assert (ids(claimed), claimed.last_id) == (["r1"], (await stream_ids(client))[0])


@pytest.mark.parametrize(("rows", "room"), [(1, {"room_bytes": 2}), (3, {"room_rows": 2})])
async def test_an_entry_that_no_gateway_wrote_counts_as_one_row_and_one_byte(
    client: Client, rows: int, room: dict[str, Any]
) -> None:
    for _ in range(3):
        await client.xadd(KEYS.requests, {"hello": "world"})
    await admit(client, 1, rows=rows)
    assert len((await claim(client, **room)).entries) == 2


async def test_what_waits_and_can_not_be_read_ends_no_claim(client: Client) -> None:
    await fill(client, "w1")
    await left_behind(client, 32)
    claimed = await claim(client, "w2")
    assert (claimed.kind, ids(claimed), claimed.waiting) == ("batch", [], 32)
    assert claimed.last_id == (await stream_ids(client))[-1]
    assert await client.get(KEYS.fill_lock) == b"w1"  # it is no whole batch after all: the one who fills keeps its turn


async def test_a_claim_renews_the_lease(client: Client) -> None:
    claimed = await claim(client)
    assert await client.zscore(KEYS.leases, "w1") == claimed.now_ms + 2000


# --- who may claim


async def test_nothing_waits(client: Client) -> None:
    claimed = await claim(client)
    assert (claimed.kind, claimed.waiting, ids(claimed), claimed.next_too_large) == ("empty", 0, [], False)
    assert not await client.exists(KEYS.fill_lock, KEYS.wakeup)


async def test_who_lost_its_turn_while_filling_takes_nothing_more(client: Client) -> None:
    await fill(client, "w1")
    await client.set(KEYS.fill_lock, "w2")  # w1's had expired, and w2 fills now
    await admit(client, *range(1, 40))
    assert (await claim(client, "w1", "top", room_rows=31, held_rows=1)).kind == "empty"


@pytest.mark.parametrize(("waiting", "kind"), [(31, "empty"), (32, "batch")])
async def test_a_whole_batch_may_be_taken_past_the_one_who_fills(client: Client, waiting: int, kind: str) -> None:
    await fill(client, "w1")
    await admit(client, *range(1, 1 + waiting))
    assert (await claim(client, "w2")).kind == kind
    assert await client.get(KEYS.fill_lock) == b"w1"


async def test_nothing_is_claimed_ahead_while_another_fills(client: Client) -> None:
    await fill(client, "w2")
    await admit(client, *range(1, 40))
    assert await client.llen(KEYS.wakeup) == 1  # rung for r0, and popped by nobody
    assert (await claim(client, "w1", "ahead", soon=True, hold_ms=0)).kind == "empty"


async def test_nothing_is_claimed_ahead_once_an_idle_worker_has_heard_the_bell(client: Client) -> None:
    await admit(client, *range(40))
    assert await client.lpop(KEYS.wakeup) == b"1"
    assert (await claim(client, "w1", "ahead", soon=True, hold_ms=0)).kind == "empty"


@pytest.mark.parametrize(("waiting", "kind"), [(31, "empty"), (32, "batch")])
async def test_a_whole_batch_is_claimed_ahead_however_long_the_device_is_busy(
    client: Client, waiting: int, kind: str
) -> None:
    await admit(client, *range(waiting))
    assert (await claim(client, "w1", "ahead", soon=False, hold_ms=0)).kind == kind


# --- the entries of a dead worker


async def dead(client: Client, *numbers: int) -> DeadWorker:
    """A worker that claimed these, and whose lease shows that it is dead."""
    await admit(client, *numbers)
    await claim(client, "dead")
    await client.delete(KEYS.fill_lock)
    return DeadWorker("dead", str(int((await client.zscore(KEYS.leases, "dead")) or 0)).encode())


@pytest.mark.parametrize("mode", ["top", "ahead"])
async def test_only_an_idle_worker_takes_a_dead_ones_entry(client: Client, mode) -> None:
    dead_worker = await dead(client, 1)
    assert (await claim(client, "w1", mode, dead_worker=dead_worker)).kind == "empty"
    assert await client.zscore(KEYS.leases, "dead") is not None


async def test_a_dead_workers_entry_that_somebody_deleted_is_passed_over(client: Client) -> None:
    dead_worker = await dead(client, 1, 2)
    await client.xdel(KEYS.requests, (await stream_ids(client))[0])
    solo = await claim(client, "w1", dead_worker=dead_worker)
    assert (solo.kind, ids(solo), solo.next_too_large) == ("isolated", ["r2"], False)
    pending = await client.xpending_range(KEYS.requests, GROUP, "-", "+", 10)
    assert [(row["consumer"], row["times_delivered"]) for row in pending] == [(b"w1", 2)]


# --- the turn


async def test_who_claimed_ahead_and_waits_for_more_takes_the_turn(client: Client) -> None:
    assert (await claim(client, held_rows=1)).kind == "empty"
    assert await client.get(KEYS.fill_lock) == b"w1"
    assert 50_000 < await client.pttl(KEYS.fill_lock) <= 60_000


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        pytest.param("idle", {"held_rows": 0}, id="who holds nothing"),
        pytest.param("idle", {"held_rows": 1, "hold_ms": 0}, id="who does not wait"),
        pytest.param("top", {"held_rows": 1}, id="who has filled a batch already"),
        pytest.param("ahead", {"held_rows": 1}, id="whose device is busy"),
    ],
)
async def test_while_nothing_waits_no_other_takes_the_turn(client: Client, mode, how: dict[str, int]) -> None:
    assert (await claim(client, "w1", mode, **how)).kind == "empty"
    assert not await client.exists(KEYS.fill_lock)


async def test_the_turn_is_not_taken_from_one_who_has_it(client: Client) -> None:
    await fill(client, "w2")
    assert (await claim(client, "w1", held_rows=1)).kind == "empty"
    assert await client.get(KEYS.fill_lock) == b"w2"


@pytest.mark.parametrize(
    ("waiting", "how", "closed"),
    [
        pytest.param([1] * 2, {}, False, id="less than a batch"),
        pytest.param([1] * 3, {"room_rows": 3}, True, id="all its rows in one read"),
        pytest.param([1] * 4, {"room_rows": 3}, True, id="more than its rows in one read"),
        pytest.param([1] * 4, {"room_rows": 3, "room_bytes": 350}, True, id="its rows one by one"),
        pytest.param([1] * 4, {"room_bytes": 300}, True, id="its bytes"),
        pytest.param([1] * 2, {"room_bytes": 150}, True, id="more than its bytes"),
        pytest.param([2, 2], {"room_rows": 3}, True, id="the next is too wide"),
        pytest.param([1] * 2, {"hold_ms": 0}, True, id="no time to wait for more"),
    ],
)
async def test_the_turn_is_kept_until_the_batch_is_closed(
    client: Client, waiting: list[int], how: dict[str, Any], closed: bool
) -> None:
    await admission(client).admit([request(n, rows=rows) for n, rows in enumerate(waiting)])
    await claim(client, held_rows=how.get("held_rows", 0), **how)
    assert await client.exists(KEYS.fill_lock) == (not closed)


@pytest.mark.parametrize("extra_rows", [1, 2])
async def test_a_batch_that_is_filled_up_gives_the_turn_back(client: Client, extra_rows: int) -> None:
    await fill(client, "w1")
    await admit(client, 1, 2, rows=extra_rows)
    topped = await claim(client, "w1", "top", room_rows=2, held_rows=1)
    assert (ids(topped), topped.waiting) == ((["r1", "r2"], 0) if extra_rows == 1 else (["r1"], 1))
    assert not await client.exists(KEYS.fill_lock)


async def test_who_held_rows_and_finds_a_whole_batch_leaves_no_turn_behind(client: Client) -> None:
    await admit(client, 1, 2, 3)
    assert ids(await claim(client, room_rows=2, held_rows=1)) == ["r1", "r2"]
    assert not await client.exists(KEYS.fill_lock)


# --- how much


@pytest.mark.parametrize(
    ("room", "taken"),
    [
        pytest.param({"room_rows": 3}, 3, id="rows"),
        pytest.param({"room_rows": 3, "room_bytes": 450}, 3, id="rows, where bytes are short"),
        pytest.param({"room_bytes": 300}, 3, id="bytes, exactly"),
        pytest.param({"room_bytes": 301}, 4, id="bytes, and the one that goes beyond"),
        pytest.param({"room_bytes": 500}, 5, id="all"),
    ],
)
async def test_a_batch_ends_with_its_rows_or_its_bytes(client: Client, room: dict[str, Any], taken: int) -> None:
    await admit(client, *range(5))
    claimed = await claim(client, **room)
    assert ids(claimed) == [f"r{n}" for n in range(taken)]
    assert claimed.last_id == (await stream_ids(client))[taken - 1]
    assert (claimed.waiting, claimed.next_too_large) == (5 - taken, False)


@pytest.mark.parametrize(
    ("rows", "room", "reads", "looks"),
    [
        pytest.param(1, {}, 1, 0, id="there is room for all that is open"),
        pytest.param(1, {"room_bytes": 500}, 1, 0, id="and just room"),
        pytest.param(1, {"room_bytes": 499}, 5, 0, id="bytes are short"),
        pytest.param(2, {}, 6, 5, id="one has several rows"),
    ],
)
async def test_one_read_claims_a_batch_unless_each_entry_has_to_be_looked_at(
    client: Client, rows: int, room: dict[str, Any], reads: int, looks: int
) -> None:
    await claim(client)  # makes the group
    await admission(client).admit([request(n, rows=rows if n == 2 else 1) for n in range(5)])
    await client.config_resetstat()
    assert len((await claim(client, **room)).entries) == 5
    calls = {name: stat["calls"] for name, stat in (await client.info("commandstats")).items()}
    assert (calls.get("cmdstat_xreadgroup", 0), calls.get("cmdstat_xrange", 0)) == (reads, looks)


async def test_a_request_too_wide_for_what_is_left_stays_for_the_next_batch(client: Client) -> None:
    await admit(client, 1, rows=5)
    claimed = await claim(client, room_rows=4, held_rows=4)
    assert (claimed.kind, ids(claimed), claimed.next_too_large, claimed.waiting) == ("batch", [], True, 1)


async def test_what_is_too_wide_behind_a_single_row_stays_too(client: Client) -> None:
    await admission(client).admit([request(n, rows=rows) for n, rows in enumerate([1, 4])])
    claimed = await claim(client, room_rows=4)
    assert (ids(claimed), claimed.next_too_large, claimed.waiting) == (["r0"], True, 1)


async def test_each_head_is_looked_at_behind_what_was_just_claimed(client: Client) -> None:
    await admission(client).admit([request(n, rows=rows) for n, rows in enumerate([3, 1, 1, 3])])
    claimed = await claim(client, room_rows=6)
    assert (ids(claimed), claimed.next_too_large) == (["r0", "r1", "r2"], True)
    assert claimed.last_id == (await stream_ids(client))[2]


async def test_a_request_that_fits_exactly_is_taken(client: Client) -> None:
    await admission(client).admit([request(n, rows=rows) for n, rows in enumerate([3, 3, 1])])
    claimed = await claim(client, room_rows=6)
    assert (ids(claimed), claimed.next_too_large) == (["r0", "r1"], False)


# --- the bell


async def test_the_bell_holds_one_token_at_the_most(client: Client) -> None:
    await admit(client, 1)
    await admit(client, 2)
    await claims(client).release()
    assert await client.llen(KEYS.wakeup) == 1


async def test_the_bell_is_silent_while_nothing_waits(client: Client) -> None:
    await claims(client).release()
    await fill(client, "w1")
    await client.delete(KEYS.wakeup)
    await claims(client).release()
    assert not await client.exists(KEYS.fill_lock, KEYS.wakeup)


async def test_a_full_batch_rings_for_what_it_leaves(client: Client) -> None:
    await admit(client, *range(40))
    await client.delete(KEYS.wakeup)
    await claim(client)
    assert await client.llen(KEYS.wakeup) == 1


async def test_a_batch_that_may_still_be_filled_rings_for_nobody(client: Client) -> None:
    await admit(client, *range(3))
    await client.delete(KEYS.wakeup)
    await claim(client, room_bytes=450)
    assert not await client.exists(KEYS.wakeup)


async def test_only_the_one_who_has_the_turn_gives_it_back(client: Client) -> None:
    await fill(client, "w1")
    await claims(client, "w2").release()
    assert await client.get(KEYS.fill_lock) == b"w1"
