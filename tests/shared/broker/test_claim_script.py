"""Each condition of `claim` and `release`: the claimed entries, the holder of the fill lock, and whether an idle worker
is woken."""

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
    """Give the worker the fill lock: it claims the only entry and can wait for more."""
    await admit(client, 0)
    await claim(client, worker_id)
    assert await client.get(KEYS.fill_lock) == worker_id.encode()


async def add_unreadable(client: Client, count: int) -> None:
    """Add entries that count as waiting but that no claim can read: acknowledged, never deleted."""
    for _ in range(count):
        await client.xadd(KEYS.requests, entry_fields())
    streams = await client.xreadgroup(GROUP, "gone", {KEYS.requests: ">"}, count=count)
    await client.xack(KEYS.requests, GROUP, *[entry_id for entry_id, _ in streams[0][1]])


# --- waiting entries


async def test_another_consumer_group_on_the_stream_is_ignored(client: Client) -> None:
    await client.xgroup_create(KEYS.requests, "another", "0", mkstream=True)
    await admit(client, 1, 2, 3)
    claimed = await claim(client, room_rows=2)
    assert (ids(claimed), claimed.waiting) == (["r1", "r2"], 1)
    assert {group["name"]: group["pending"] for group in await client.xinfo_groups(KEYS.requests)} == {
        b"another": 0,
        b"workers": 2,
    }


async def test_claimed_entries_are_inflight_and_no_longer_waiting(client: Client) -> None:
    await admit(client, 1, 2, 3)
    await claim(client, room_rows=2)
    result = await admission(client).admit([request(4)])
    assert (result.waiting, result.inflight_rows) == (2, 4)
    assert (await claim(client, room_rows=1)).waiting == 1


async def test_a_malformed_entry_is_claimed_while_nothing_is_inflight(client: Client) -> None:
    await client.xadd(KEYS.requests, entry_fields())
    claimed = await claim(client)
    assert (ids(claimed), claimed.last_id) == (["r1"], (await stream_ids(client))[0])


@pytest.mark.parametrize(("rows", "room"), [(1, {"room_bytes": 2}), (3, {"room_rows": 2})])
async def test_a_malformed_entry_counts_as_one_row_and_one_byte(
    client: Client, rows: int, room: dict[str, Any]
) -> None:
    for _ in range(3):
        await client.xadd(KEYS.requests, {"hello": "world"})
    await admit(client, 1, rows=rows)
    assert len((await claim(client, **room)).entries) == 2


async def test_waiting_entries_that_cannot_be_read_do_not_fail_a_claim(client: Client) -> None:
    await fill(client, "w1")
    await add_unreadable(client, 32)
    claimed = await claim(client, "w2")
    assert (claimed.kind, ids(claimed), claimed.waiting) == ("batch", [], 32)
    assert claimed.last_id == (await stream_ids(client))[-1]
    assert await client.get(KEYS.fill_lock) == b"w1"  # w2 cannot claim a full batch, so w1 keeps the lock


async def test_a_claim_renews_the_lease(client: Client) -> None:
    claimed = await claim(client)
    assert await client.zscore(KEYS.leases, "w1") == claimed.now_ms + 2000


# --- who may claim


async def test_a_claim_of_an_empty_queue_is_empty(client: Client) -> None:
    claimed = await claim(client)
    assert (claimed.kind, claimed.waiting, ids(claimed), claimed.next_too_large) == ("empty", 0, [], False)
    assert not await client.exists(KEYS.fill_lock, KEYS.wakeup)


async def test_a_worker_that_lost_the_fill_lock_claims_nothing_more(client: Client) -> None:
    await fill(client, "w1")
    await client.set(KEYS.fill_lock, "w2")  # w1's expired
    await admit(client, *range(1, 40))
    assert (await claim(client, "w1", "top", room_rows=31, held_rows=1)).kind == "empty"


@pytest.mark.parametrize(("waiting", "kind"), [(31, "empty"), (32, "batch")])
async def test_a_full_batch_may_be_claimed_while_another_worker_holds_the_fill_lock(
    client: Client, waiting: int, kind: str
) -> None:
    await fill(client, "w1")
    await admit(client, *range(1, 1 + waiting))
    assert (await claim(client, "w2")).kind == kind
    assert await client.get(KEYS.fill_lock) == b"w1"


async def test_nothing_is_claimed_ahead_while_another_worker_holds_the_fill_lock(client: Client) -> None:
    await fill(client, "w2")
    await admit(client, *range(1, 40))
    assert await client.llen(KEYS.wakeup) == 1  # pushed for r0
    assert (await claim(client, "w1", "ahead", soon=True, hold_ms=0)).kind == "empty"


async def test_nothing_is_claimed_ahead_once_an_idle_worker_was_woken(client: Client) -> None:
    await admit(client, *range(40))
    assert await client.lpop(KEYS.wakeup) == b"1"
    assert (await claim(client, "w1", "ahead", soon=True, hold_ms=0)).kind == "empty"


@pytest.mark.parametrize(("waiting", "kind"), [(31, "empty"), (32, "batch")])
async def test_a_full_batch_is_claimed_ahead_however_long_the_device_is_busy(
    client: Client, waiting: int, kind: str
) -> None:
    await admit(client, *range(waiting))
    assert (await claim(client, "w1", "ahead", soon=False, hold_ms=0)).kind == kind


# --- the entries of a dead worker


async def dead(client: Client, *numbers: int) -> DeadWorker:
    """Make a worker that claimed these requests; return the score of its lease."""
    await admit(client, *numbers)
    await claim(client, "dead")
    await client.delete(KEYS.fill_lock)
    return DeadWorker("dead", str(int((await client.zscore(KEYS.leases, "dead")) or 0)).encode())


@pytest.mark.parametrize("mode", ["top", "ahead"])
async def test_only_an_idle_worker_claims_an_entry_of_a_dead_one(client: Client, mode) -> None:
    dead_worker = await dead(client, 1)
    assert (await claim(client, "w1", mode, dead_worker=dead_worker)).kind == "empty"
    assert await client.zscore(KEYS.leases, "dead") is not None


async def test_a_deleted_entry_of_a_dead_worker_is_skipped(client: Client) -> None:
    dead_worker = await dead(client, 1, 2)
    await client.xdel(KEYS.requests, (await stream_ids(client))[0])
    isolated = await claim(client, "w1", dead_worker=dead_worker)
    assert (isolated.kind, ids(isolated), isolated.next_too_large) == ("isolated", ["r2"], False)
    pending = await client.xpending_range(KEYS.requests, GROUP, "-", "+", 10)
    assert [(row["consumer"], row["times_delivered"]) for row in pending] == [(b"w1", 2)]


# --- the fill lock


async def test_a_worker_that_claimed_ahead_and_waits_for_more_takes_the_fill_lock(client: Client) -> None:
    assert (await claim(client, held_rows=1)).kind == "empty"
    assert await client.get(KEYS.fill_lock) == b"w1"
    assert 50_000 < await client.pttl(KEYS.fill_lock) <= 60_000


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        pytest.param("idle", {"held_rows": 0}, id="holds nothing"),
        pytest.param("idle", {"held_rows": 1, "hold_ms": 0}, id="does not wait"),
        pytest.param("top", {"held_rows": 1}, id="fills a batch"),
        pytest.param("ahead", {"held_rows": 1}, id="claims ahead"),
    ],
)
async def test_while_nothing_waits_no_other_worker_takes_the_fill_lock(
    client: Client, mode, how: dict[str, int]
) -> None:
    assert (await claim(client, "w1", mode, **how)).kind == "empty"
    assert not await client.exists(KEYS.fill_lock)


@pytest.mark.parametrize(("numbers", "held_rows"), [([], 1), ([1], 0)], ids=["nothing waits", "less than a batch"])
async def test_the_fill_lock_is_taken_even_for_a_millisecond(
    client: Client, numbers: list[int], held_rows: int
) -> None:
    await admit(client, *numbers)
    await client.config_resetstat()
    await claim(client, held_rows=held_rows, hold_ms=1)
    assert (await client.info("commandstats"))["cmdstat_set"]["calls"] == 1


async def test_the_fill_lock_is_not_taken_from_its_holder(client: Client) -> None:
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
        pytest.param([2, 2], {"room_rows": 3}, True, id="the next entry does not fit"),
        pytest.param([1] * 2, {"hold_ms": 0}, True, id="no time to wait for more"),
    ],
)
async def test_the_fill_lock_is_held_until_the_batch_closes(
    client: Client, waiting: list[int], how: dict[str, Any], closed: bool
) -> None:
    await admission(client).admit([request(n, rows=rows) for n, rows in enumerate(waiting)])
    await claim(client, held_rows=how.get("held_rows", 0), **how)
    assert await client.exists(KEYS.fill_lock) == (not closed)


@pytest.mark.parametrize("rows", [1, 2])
async def test_filling_the_batch_releases_the_fill_lock(client: Client, rows: int) -> None:
    await fill(client, "w1")
    await admit(client, 1, 2, rows=rows)
    topped = await claim(client, "w1", "top", room_rows=2, held_rows=1)
    assert (ids(topped), topped.waiting) == ((["r1", "r2"], 0) if rows == 1 else (["r1"], 1))
    assert not await client.exists(KEYS.fill_lock)


async def test_a_worker_that_holds_rows_and_finds_a_full_batch_leaves_no_fill_lock(client: Client) -> None:
    await admit(client, 1, 2, 3)
    assert ids(await claim(client, room_rows=2, held_rows=1)) == ["r1", "r2"]
    assert not await client.exists(KEYS.fill_lock)


# --- rows and bytes


@pytest.mark.parametrize(
    ("room", "count"),
    [
        pytest.param({"room_rows": 3}, 3, id="rows"),
        pytest.param({"room_rows": 3, "room_bytes": 450}, 3, id="rows, where bytes are short"),
        pytest.param({"room_bytes": 300}, 3, id="bytes, exactly"),
        pytest.param({"room_bytes": 301}, 4, id="bytes, and the one that goes beyond"),
        pytest.param({"room_bytes": 500}, 5, id="all"),
    ],
)
async def test_a_claim_ends_at_its_rows_or_its_bytes(client: Client, room: dict[str, Any], count: int) -> None:
    await admit(client, *range(5))
    claimed = await claim(client, **room)
    assert ids(claimed) == [f"r{n}" for n in range(count)]
    assert claimed.last_id == (await stream_ids(client))[count - 1]
    assert (claimed.waiting, claimed.next_too_large) == (5 - count, False)


@pytest.mark.parametrize(
    ("rows", "room", "reads", "inspections"),
    [
        pytest.param(1, {}, 1, 0, id="everything inflight fits"),
        pytest.param(1, {"room_bytes": 500}, 1, 0, id="it fits exactly"),
        pytest.param(1, {"room_bytes": 499}, 5, 0, id="too few bytes"),
        pytest.param(2, {}, 6, 5, id="a request has several rows"),
    ],
)
async def test_one_read_claims_a_batch_unless_entries_must_be_inspected(
    client: Client, rows: int, room: dict[str, Any], reads: int, inspections: int
) -> None:
    await claim(client)  # creates the group
    await admission(client).admit([request(n, rows=rows if n == 2 else 1) for n in range(5)])
    await client.config_resetstat()
    assert len((await claim(client, **room)).entries) == 5
    calls = {name: stat["calls"] for name, stat in (await client.info("commandstats")).items()}
    assert (calls.get("cmdstat_xreadgroup", 0), calls.get("cmdstat_xrange", 0)) == (reads, inspections)


async def test_a_request_with_more_rows_than_room_stays_for_the_next_batch(client: Client) -> None:
    await admit(client, 1, rows=5)
    claimed = await claim(client, room_rows=4, held_rows=1)
    assert (claimed.kind, ids(claimed), claimed.next_too_large, claimed.waiting) == ("batch", [], True, 1)


async def test_a_request_that_does_not_fit_after_a_single_row_stays(client: Client) -> None:
    await admission(client).admit([request(n, rows=rows) for n, rows in enumerate([1, 4])])
    claimed = await claim(client, room_rows=4)
    assert (ids(claimed), claimed.next_too_large, claimed.waiting) == (["r0"], True, 1)


async def test_the_next_entry_is_inspected_after_each_claimed_one(client: Client) -> None:
    await admission(client).admit([request(n, rows=rows) for n, rows in enumerate([3, 1, 1, 3])])
    claimed = await claim(client, room_rows=6)
    assert (ids(claimed), claimed.next_too_large) == (["r0", "r1", "r2"], True)
    assert claimed.last_id == (await stream_ids(client))[2]


async def test_a_request_that_fits_exactly_is_claimed(client: Client) -> None:
    await admission(client).admit([request(n, rows=rows) for n, rows in enumerate([3, 3, 1])])
    claimed = await claim(client, room_rows=6)
    assert (ids(claimed), claimed.next_too_large) == (["r0", "r1"], False)


# --- the wakeup


async def test_the_wakeup_holds_at_most_one_token(client: Client) -> None:
    await admit(client, 1)
    await admit(client, 2)
    await claims(client).release()
    assert await client.llen(KEYS.wakeup) == 1


async def test_no_worker_is_woken_while_nothing_waits(client: Client) -> None:
    await claims(client).release()
    await fill(client, "w1")
    await client.delete(KEYS.wakeup)
    await claims(client).release()
    assert not await client.exists(KEYS.fill_lock, KEYS.wakeup)


async def test_a_full_batch_wakes_a_worker_for_the_remaining_entries(client: Client) -> None:
    await admit(client, *range(40))
    await client.delete(KEYS.wakeup)
    await claim(client)
    assert await client.llen(KEYS.wakeup) == 1


async def test_a_batch_that_can_still_be_filled_wakes_no_worker(client: Client) -> None:
    await admit(client, *range(3))
    await client.delete(KEYS.wakeup)
    await claim(client, room_bytes=450)
    assert not await client.exists(KEYS.wakeup)


async def test_only_its_holder_releases_the_fill_lock(client: Client) -> None:
    await fill(client, "w1")
    await claims(client, "w2").release()
    assert await client.get(KEYS.fill_lock) == b"w1"
