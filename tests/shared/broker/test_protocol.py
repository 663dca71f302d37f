"""The scripts on real brokers: the guarantees of each, checked by the resulting data."""

from __future__ import annotations

import asyncio
import re

import pytest

from smartbatch.shared.broker.queue.admission import Admission, AdmitResult, AdmitStatus, Capacity, NewEntry
from smartbatch.shared.broker.queue.claims import DeadWorker, Mode, Outcome, WorkerQueue
from smartbatch.shared.broker.queue.leases import Leases
from smartbatch.shared.broker.queue.replies import Inbox, Notice, chunks
from smartbatch.shared.errors import BrokerFull
from smartbatch.shared.keys import GROUP, Keys
from tests.brokers import Broker, Client, eventually

KEYS = Keys("m")
FULL, ADMITTED, DEADLINE_UNATTAINABLE = AdmitStatus
GATEWAY = "gw"


def request(number: int, *, rows: int = 1, payload: bytes = b"x" * 100) -> NewEntry:
    return NewEntry(f"r{number}", 5000, rows, "raw", payload)


def admission(client: Client, max_entries: int = 100, max_bytes: int = 10_000_000) -> Admission:
    return Admission(client, KEYS, GATEWAY, max_entries=max_entries, max_bytes=max_bytes, body_ttl_s=60)


def claims(client: Client, worker_id: str = "w1") -> WorkerQueue:
    return WorkerQueue(client, client, KEYS, worker_id, lease_ms=2000, reply_ttl_s=60)


async def claim(client: Client, worker_id: str = "w1", mode: Mode = "idle", **how):
    options = {"room_rows": 32, "room_bytes": 1 << 30, "hold_ms": 60_000, **how}
    return await claims(client, worker_id).claim(mode, **options)


async def test_an_admitted_request_is_on_the_stream_and_inflight(client: Client) -> None:
    assert await admission(client).admit([request(1)]) == AdmitResult(1, 1, [ADMITTED], 100)
    [(entry_id, fields)] = await client.xrange(KEYS.requests)
    assert list(fields) == [b"id", b"header", b"payload"]
    assert re.fullmatch(rb"gw\|\d{13}\|100\|1\|5000\|raw\|", fields[b"header"])
    inflight = await client.hgetall(KEYS.inflight)
    assert inflight.pop(b"#about").startswith(b"requests admitted")
    assert inflight == {b"r1": entry_id + b"|100|1", b"#bytes": b"100"}
    assert await client.object("encoding", KEYS.inflight) == b"hashtable"  # a hash table instead of a list


async def test_admitting_again_under_the_same_id_changes_nothing(client: Client) -> None:
    for _ in range(3):
        assert await admission(client).admit([request(1), request(2)]) == AdmitResult(2, 2, [ADMITTED, ADMITTED], 200)
    assert await client.xlen(KEYS.requests) == 2


async def test_entries_over_the_limit_are_rejected_individually(client: Client) -> None:
    result = await admission(client, max_entries=2).admit([request(n) for n in range(4)])
    assert result == AdmitResult(2, 2, [ADMITTED, ADMITTED, FULL, FULL], 200)


async def test_a_flush_with_known_requests_and_too_little_room_is_decided_individually(client: Client) -> None:
    await admission(client).admit([request(1), request(2, rows=3)])
    flush = [request(3, rows=2), request(1), request(4), request(2, rows=3), request(5)]
    result = await admission(client, max_entries=4).admit(flush)
    assert result == AdmitResult(4, 7, [ADMITTED, ADMITTED, ADMITTED, ADMITTED, FULL], 400)
    sums = await client.hmget(KEYS.inflight, ["#bytes", "#extra_rows"])
    assert sums == [b"400", b"3"]
    assert [fields[b"id"] for _, fields in await client.xrange(KEYS.requests)] == [b"r1", b"r2", b"r3", b"r4"]


async def test_a_forced_admission_ignores_every_limit(client: Client) -> None:
    both = [request(1), request(2)]
    result = await admission(client, max_entries=1).admit(both, force=True, capacity=Capacity(0.01, 10))
    assert result.statuses == [ADMITTED, ADMITTED]


async def test_an_unattainable_deadline_is_rejected_by_all_rows_ahead(client: Client) -> None:
    ten_a_second = Capacity(rows_per_s=10, batch_s=0.5)
    extra_rows = [request(1, rows=30), request(2, rows=14), request(3), request(4)]  # each has 5 s
    result = await admission(client).admit(extra_rows, capacity=ten_a_second)
    # 30 rows with nothing waiting; 44 would take 4.4 s and a batch; 45 take 4.5 s and a batch, 46 are too many.
    assert result == AdmitResult(3, 45, [ADMITTED, ADMITTED, ADMITTED, DEADLINE_UNATTAINABLE], 300)
    await claim(client, room_rows=1)
    assert (await admission(client).admit([request(5)], capacity=ten_a_second)).statuses == [
        DEADLINE_UNATTAINABLE
    ]  # running rows count
    assert (await admission(client).admit([request(6)])).statuses == [ADMITTED]  # capacity unknown


async def test_with_nothing_waiting_any_timeout_is_admitted(client: Client) -> None:
    result = await admission(client).admit([request(1)], capacity=Capacity(0.1, 60))
    assert result.statuses == [ADMITTED]


async def test_a_full_redis_rejects_admissions_and_still_finishes_work(client: Client) -> None:
    await admission(client).admit([request(n) for n in range(4)])
    first, small, middling, large = (await claim(client)).entries
    assert await claims(client).finish([Outcome(first, b"f" * 10_000)]) == 1  # loads `finish` into Redis
    await client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(BrokerFull):
            await admission(client).admit([request(4)])
        assert await claims(client).finish([Outcome(small, b"done")]) == 1
        assert await claims(client).finish([Outcome(middling, b"m" * 10_000), Outcome(large, b"l" * 40_000)]) == 2
        replies = await Inbox(client, KEYS, GATEWAY).read(["r1", "r2", "r3"])
        assert replies == [b"done", b"m" * 10_000, b"l" * 40_000]
    finally:
        await client.config_set("maxmemory", "0")


async def test_a_claim_takes_rows_not_entries_and_leaves_what_does_not_fit(client: Client) -> None:
    await admission(client).admit([request(1, rows=3), request(2, rows=4), request(3, rows=2)])
    claimed = await claim(client, room_rows=8)
    assert [entry.id for entry in claimed.entries] == ["r1", "r2"]
    assert claimed.next_too_large
    assert claimed.waiting == 1
    assert await client.exists(KEYS.fill_lock) == 0  # the batch is closed, so the fill lock is free


async def test_the_first_entry_is_claimed_even_if_it_exceeds_the_batch(client: Client) -> None:
    await admission(client).admit([request(1, rows=9)])
    claimed = await claim(client, room_rows=8)
    assert [entry.rows for entry in claimed.entries] == [9]


async def test_bytes_end_a_claim(client: Client) -> None:
    await admission(client).admit([request(n) for n in range(5)])
    claimed = await claim(client, room_bytes=250)
    assert len(claimed.entries) == 3


async def test_only_one_idle_worker_fills_while_the_rest_of_a_batch_may_still_come(client: Client) -> None:
    await admission(client).admit([request(1)])
    assert (await claim(client, "w1")).kind == "batch"
    await admission(client).admit([request(2)])
    assert (await claim(client, "w2")).kind == "empty"
    assert await client.get(KEYS.fill_lock) == b"w1"
    topped = await claim(client, "w1", "top", room_rows=31, held_rows=1)
    assert [entry.id for entry in topped.entries] == ["r2"]


async def test_a_full_backlog_is_claimed_while_another_worker_fills(client: Client) -> None:
    await admission(client).admit([request(1)])
    await claim(client, "w1")
    await admission(client).admit([request(n) for n in range(2, 40)])
    claimed = await claim(client, "w2")
    assert len(claimed.entries) == 32
    assert await client.get(KEYS.fill_lock) == b"w1"


async def test_nothing_is_claimed_ahead_while_another_worker_is_idle(client: Client, any_broker: Broker) -> None:
    idle = Client(any_broker.url, block_s=1)
    waiting = asyncio.create_task(claims(idle, "w2").claim("idle", room_rows=32, room_bytes=1 << 30, after_wakeup_s=1))
    await asyncio.to_thread(eventually, lambda: any_broker.sync.info("clients")["blocked_clients"])
    await admission(client).admit([request(1)])
    assert (await claim(client, "w1", "ahead", soon=True, hold_ms=0)).kind == "empty"
    assert [entry.id for entry in (await waiting).entries] == ["r1"]
    await idle.aclose()


async def test_entries_are_claimed_ahead_if_no_worker_takes_the_wakeup(client: Client) -> None:
    await admission(client).admit([request(1)])
    assert await client.llen(KEYS.wakeup) == 1
    assert (await claim(client, "w1", "ahead", hold_ms=0)).kind == "empty"  # too few rows, and there is time
    assert (await claim(client, "w1", "ahead", soon=True, hold_ms=0)).kind == "batch"


async def test_release_wakes_a_worker_for_waiting_entries(client: Client) -> None:
    await admission(client).admit([request(1)])
    await claim(client, "w1")
    await client.delete(KEYS.wakeup)
    await admission(client).admit([request(2)])
    assert await client.llen(KEYS.wakeup) == 0  # the filling worker is awake
    await claims(client, "w1").release()
    assert await client.llen(KEYS.wakeup) == 1


async def test_finish_publishes_once_and_leaves_nothing_behind(client: Client) -> None:
    large = b"z" * 100_000
    await admission(client).admit([request(1), request(2, payload=large)])
    claimed = await claim(client)
    assert [len(entry.payload) for entry in claimed.entries] == [100, 0]
    assert await claims(client).bodies(["r2"]) == [large]
    outcomes = [Outcome(claimed.entries[0], b"one"), Outcome(claimed.entries[1], b"t" * 40_000)]
    assert await claims(client).finish(outcomes) == 2
    assert await claims(client).finish(outcomes) == 0
    inbox = Inbox(client, KEYS, GATEWAY)
    assert await inbox.pop([]) == [("r1", 3, b"one"), ("r2", 40_000, None)]  # the small reply is part of its notice
    assert await inbox.read(["r1", "r2"]) == [b"one", b"t" * 40_000]
    await inbox.pop(["r1", "r2"])
    left = set(await client.keys("*"))
    assert left <= {KEYS.requests.encode(), KEYS.leases.encode(), KEYS.fill_lock.encode(), KEYS.wakeup.encode()}
    assert await client.xlen(KEYS.requests) == 0
    assert (await client.xpending(KEYS.requests, GROUP))["pending"] == 0


async def test_a_cancelled_request_frees_its_place_and_drops_its_late_result(client: Client) -> None:
    await admission(client).admit([request(1), request(2)])
    claimed = await claim(client, room_rows=1)
    assert await admission(client).cancel(["r1", "r2", "never"]) == 2
    assert await client.xlen(KEYS.requests) == 0
    assert await client.exists(KEYS.inflight) == 0
    assert await claims(client).finish([Outcome(claimed.entries[0], b"late")]) == 0
    assert await client.exists(KEYS.reply("r1")) == 0


async def test_each_gateway_gets_its_replies_in_its_own_inbox(client: Client) -> None:
    other = Admission(client, KEYS, "gw2", max_entries=100, max_bytes=10**7, body_ttl_s=60)
    for n, gateway in enumerate((admission(client), other, admission(client), other, other)):
        await gateway.admit([request(n, rows=n + 1)])
    entries = (await claim(client)).entries
    assert await claims(client).finish([Outcome(entry, entry.id.encode()) for entry in entries]) == 5
    assert [reply for *_, reply in await Inbox(client, KEYS, GATEWAY).pop([])] == [b"r0", b"r2"]
    assert [reply for *_, reply in await Inbox(client, KEYS, "gw2").pop([])] == [b"r1", b"r3", b"r4"]
    assert await client.exists(KEYS.inflight) == 0


async def test_a_cancelled_request_does_not_delay_other_replies_of_its_batch(client: Client) -> None:
    await admission(client).admit([request(n) for n in range(4)])
    entries = (await claim(client, room_rows=3)).entries
    await admission(client).cancel(["r1"])
    outcomes = [Outcome(entry, b"done") for entry in entries]
    assert await claims(client).finish(outcomes) == 2
    assert await claims(client).finish(outcomes) == 0
    assert [notice.request_id for notice in await Inbox(client, KEYS, GATEWAY).pop([])] == ["r0", "r2"]
    assert set(await client.hkeys(KEYS.inflight)) == {b"r3", b"#bytes", b"#about"}
    assert await client.xlen(KEYS.requests) == 1


async def test_an_inbox_of_another_type_does_not_block_a_batch(client: Client) -> None:
    await admission(client).admit([request(1), request(2)])
    entries = (await claim(client)).entries
    await client.set(KEYS.inbox(GATEWAY), "mine")
    assert await claims(client).finish([Outcome(entry, b"done") for entry in entries]) == 2
    assert await Inbox(client, KEYS, GATEWAY).read(["r1", "r2"]) == [b"done", b"done"]


async def test_a_late_result_leaves_an_entry_alone_that_got_its_id_at_another_primary(client: Client) -> None:
    await admission(client).admit([request(1)])
    [lost] = (await claim(client)).entries
    await client.flushall()  # the new primary never had it, and gives the ID to another
    await admission(client).admit([request(2)])
    [(_, fields)] = await client.xrange(KEYS.requests)
    await client.delete(KEYS.requests)
    await client.xadd(KEYS.requests, fields, id=lost.entry_id)
    await client.hset(KEYS.inflight, "r2", f"{lost.entry_id}|100|1")
    late = [Outcome(lost, b"late"), Outcome(lost, b"late", "ended 3 workers")]
    assert [await claims(client).finish([outcome]) for outcome in late] == [0, 0]
    assert await client.xlen(KEYS.dead) == 0
    [entry] = (await claim(client, "w2")).entries
    assert (entry.entry_id, entry.id) == (lost.entry_id, "r2")
    assert [await claims(client).finish([outcome]) for outcome in late] == [0, 0]
    assert (await client.xpending(KEYS.requests, GROUP))["pending"] == 1
    assert await claims(client, "w2").finish([Outcome(entry, b"done")]) == 1
    assert await client.xlen(KEYS.requests) == 0


async def test_an_outcome_sent_twice_finishes_once(client: Client) -> None:
    await admission(client).admit([request(1), request(2)])
    entries = (await claim(client, room_rows=1)).entries
    assert await claims(client).finish([Outcome(entry, b"done") for entry in entries * 2]) == 1
    assert await client.hget(KEYS.inflight, "#bytes") == b"100"


async def test_a_dead_workers_entries_are_claimed_one_by_one_with_their_deliveries(client: Client) -> None:
    await admission(client).admit([request(1), request(2)])
    await claim(client, "dead")
    score = str(int((await client.zscore(KEYS.leases, "dead")) or 0)).encode()
    dead_worker = DeadWorker("dead", score)
    for expected in ("r1", "r2"):
        isolated = await claim(client, "w1", dead_worker=dead_worker)
        assert (isolated.kind, [entry.id for entry in isolated.entries]) == ("isolated", [expected])
        assert isolated.entries[0].deliveries == 2
        await claims(client).finish([Outcome(isolated.entries[0], b"ok")])
    assert (await claim(client, "w1", dead_worker=dead_worker)).kind == "empty"
    assert await client.zscore(KEYS.leases, "dead") is None
    assert [c["name"] for c in await client.xinfo_consumers(KEYS.requests, GROUP)] == [b"w1"]


async def test_a_dead_worker_that_returned_keeps_its_entries(client: Client) -> None:
    await admission(client).admit([request(1)])
    await claim(client, "slow")
    dead_worker = DeadWorker("slow", str(int((await client.zscore(KEYS.leases, "slow")) or 0)).encode())
    await asyncio.sleep(0.002)
    await Leases(client, KEYS, "slow").heartbeat({"state": "ready"})
    assert (await claim(client, "w1", dead_worker=dead_worker)).kind == "empty"


async def test_a_dead_letter_is_kept_with_its_reason_and_its_client_gets_an_error(client: Client) -> None:
    await admission(client).admit([request(1)])
    claimed = await claim(client)
    await claims(client).finish([Outcome(claimed.entries[0], b"sorry", "ended 3 workers")])
    [(_, fields)] = await client.xrange(KEYS.dead)
    assert (fields[b"reason"], fields[b"id"], fields[b"payload"]) == (b"ended 3 workers", b"r1", b"x" * 100)
    assert await client.get(KEYS.reply("r1")) == b"sorry"


async def test_a_given_up_request_is_not_inflight_and_has_no_reply(client: Client) -> None:
    await admission(client).admit([request(1)])
    claimed = await claim(client)
    await claims(client).finish([Outcome(claimed.entries[0])])
    assert await admission(client).are_inflight(["r1"]) == [False]
    assert await client.exists(KEYS.reply("r1"), KEYS.inbox(GATEWAY)) == 0


async def test_the_consumer_group_is_created_again_after_data_loss(client: Client) -> None:
    await admission(client).admit([request(1)])
    first = await claim(client)
    await client.flushall()
    assert await claims(client).finish([Outcome(first.entries[0], b"late")]) == 0
    await admission(client).admit([request(1)], force=True)
    assert [entry.id for entry in (await claim(client)).entries] == ["r1"]


async def test_a_heartbeat_returns_pending_entries_and_expired_leases(client: Client) -> None:
    await admission(client).admit([request(1)])
    claimed = await claim(client, "w1")
    await client.zadd(KEYS.leases, {"gone": 1000, "alive": 9e15})
    heartbeat = await Leases(client, KEYS, "w1").heartbeat({"state": "ready"})
    assert heartbeat.pending == [claimed.entries[0].entry_id]
    assert heartbeat.expired == {"gone": b"1000"}


async def test_a_heartbeat_renews_the_lease_and_writes_a_status_that_expires(client: Client) -> None:
    heartbeat = await Leases(client, KEYS, "w1").heartbeat({"state": "ready", "rows": 3})
    assert (heartbeat.alive, heartbeat.pending, heartbeat.expired) == (1, [], {})
    assert await client.zscore(KEYS.leases, "w1") == heartbeat.now_ms + 2000
    assert await client.hgetall(KEYS.worker("w1")) == {b"state": b"ready", b"rows": b"3"}
    assert 9_000 < await client.pttl(KEYS.worker("w1")) <= 10_000
    heartbeat = await Leases(client, KEYS, "w2").heartbeat({"state": "ready"})
    assert (heartbeat.alive, heartbeat.expired) == (2, {})


async def test_a_lease_is_valid_until_its_score_has_passed(client: Client) -> None:
    now_ms = (await Leases(client, KEYS, "w1").heartbeat({"state": "ready"})).now_ms
    await client.zadd(KEYS.leases, {"long ago": now_ms - 1, "for long": now_ms + 60_000})
    heartbeat = await Leases(client, KEYS, "w1").heartbeat({"state": "ready"})
    assert (heartbeat.alive, heartbeat.expired) == (2, {"long ago": str(now_ms - 1).encode()})


async def test_every_lease_is_either_alive_or_expired(client: Client) -> None:
    now_ms = (await Leases(client, KEYS, "w1").heartbeat({"state": "ready"})).now_ms
    await client.zadd(KEYS.leases, {f"until +{n}": now_ms + n for n in range(1000)})
    heartbeat = await Leases(client, KEYS, "w1").heartbeat({"state": "ready"})
    assert heartbeat.alive + len(heartbeat.expired) == 1001


async def test_leaving_releases_the_fill_lock_and_the_lease_and_wakes_a_worker(client: Client) -> None:
    await Leases(client, KEYS, "w2").heartbeat({"state": "ready"})
    await claim(client, "w1", held_rows=1)  # it waits for more entries
    assert await client.get(KEYS.fill_lock) == b"w1"
    await admission(client).admit([request(1)])
    assert await client.llen(KEYS.wakeup) == 0
    assert await Leases(client, KEYS, "w2").leave() == 0
    assert (await client.get(KEYS.fill_lock), await client.llen(KEYS.wakeup)) == (b"w1", 0)
    assert not await client.exists(KEYS.worker("w2"))
    assert await client.zrange(KEYS.leases, 0, -1) == [b"w1"]
    assert await Leases(client, KEYS, "w1").leave() == 0
    assert (await client.exists(KEYS.fill_lock), await client.llen(KEYS.wakeup)) == (0, 1)
    assert not await client.exists(KEYS.leases)


async def test_the_last_worker_that_leaves_frees_the_name(client: Client) -> None:
    for worker_id in ("w1", "w2"):
        await Leases(client, KEYS, worker_id).heartbeat({"state": "ready"})
    await client.set(KEYS.served, "{}")
    await Leases(client, KEYS, "w2").leave()
    assert await client.exists(KEYS.served) == 1
    await Leases(client, KEYS, "w1").leave()
    assert await client.exists(KEYS.served) == 0


async def test_leaving_an_unused_queue_creates_nothing(client: Client) -> None:
    await Leases(client, KEYS, "w1").heartbeat({"state": "ready"})
    assert await Leases(client, KEYS, "w1").leave() == 0
    assert await client.keys("*") == []


async def test_leaving_removes_the_consumer_only_when_it_holds_nothing(client: Client) -> None:
    await admission(client).admit([request(1)])
    claimed = await claim(client, "w1")
    leases = Leases(client, KEYS, "w1")
    assert await leases.leave() == 1
    assert await client.xinfo_consumers(KEYS.requests, GROUP)
    await claims(client).finish([Outcome(claimed.entries[0], b"ok")])
    assert await leases.leave() == 0
    assert await client.xinfo_consumers(KEYS.requests, GROUP) == []


def test_replies_are_read_in_chunks_of_bytes() -> None:
    notices = [Notice("a", 3, None), Notice("b", 3, None), Notice("c", 9, None), Notice("d", 1, None)]
    assert list(chunks(notices, 6)) == [["a", "b"], ["c"], ["d"]]


@pytest.mark.parametrize(("batches_s", "least"), [([0.32, 0.0], 0.32), ([0.0], 0.0), ([], 0.0), ([0.3, 0.2], 0.2)])
def test_a_worker_that_has_run_nothing_reports_no_batch(batches_s: list[float], least: float) -> None:
    assert Capacity.of([100.0] * len(batches_s), batches_s).batch_s == least
