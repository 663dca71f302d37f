"""Each condition of `admit` and `cancel`: which requests are admitted, and the resulting sums in `inflight`."""

from __future__ import annotations

from smartbatch.shared.broker.queue.admission import AdmitResult, Capacity
from smartbatch.shared.keys import GROUP
from tests.brokers import Client
from tests.shared.broker.test_protocol import ADMITTED, DEADLINE_UNATTAINABLE, FULL, KEYS, admission, claim, request

SLOW = Capacity(rows_per_s=0.1, batch_s=60)  # a request behind another one cannot be in time
SUMS = ["#bytes", "#extra_rows"]


async def inflight_ids(client: Client) -> list[bytes]:
    return sorted(field for field in await client.hkeys(KEYS.inflight) if not field.startswith(b"#"))


async def test_bytes_inflight_count_whoever_admitted_them(client: Client) -> None:
    three = admission(client, max_bytes=300)
    assert (await three.admit([request(1), request(2)])).statuses == [ADMITTED, ADMITTED]
    assert (await three.admit([request(3)])).statuses == [ADMITTED]  # exactly full
    assert (await three.admit([request(4)])).statuses == [FULL]
    assert await client.hget(KEYS.inflight, "#bytes") == b"300"


async def test_as_much_of_a_too_large_flush_is_admitted_as_fits(client: Client) -> None:
    flush = [request(number) for number in range(4)]
    result = await admission(client, max_bytes=300).admit(flush)
    assert result == AdmitResult(3, 3, [ADMITTED, ADMITTED, ADMITTED, FULL], 300)


async def test_entries_may_fill_the_queue_exactly(client: Client) -> None:
    assert (await admission(client, max_entries=2).admit([request(1), request(2)])).statuses == [ADMITTED, ADMITTED]
    assert (await admission(client, max_entries=2).admit([request(3)])).statuses == [FULL]


async def test_a_request_that_can_just_be_in_time_is_admitted(client: Client) -> None:
    """Each has a timeout of 5 s, as long as 40 rows at ten per second plus a batch of 1 s."""
    ten_a_second = Capacity(rows_per_s=10, batch_s=1)
    result = await admission(client).admit([request(1, rows=39), request(2)], capacity=ten_a_second)
    assert result.statuses == [ADMITTED, ADMITTED]
    assert (await admission(client).admit([request(3)], capacity=ten_a_second)).statuses == [DEADLINE_UNATTAINABLE]


async def test_where_rows_have_sizes_bytes_count_as_rows(client: Client) -> None:
    """Each has 100 bytes and a timeout of 5 s, and a usual row has 10 bytes: ten usual rows each."""
    ten_a_second = Capacity.of([10 / 0.9], [1.0], bytes_shares=[(10.0, 1.0)])
    assert (ten_a_second.row_weight, ten_a_second.byte_weight) == (0.0, 0.1)
    four = [request(number) for number in range(4)]
    result = await admission(client).admit(four, capacity=ten_a_second)
    assert (result.statuses, result.inflight_bytes) == ([ADMITTED] * 4, 400)
    assert (await admission(client).admit([request(4)], capacity=ten_a_second)).statuses == [DEADLINE_UNATTAINABLE]
    half = Capacity.of([10 / 0.9], [1.0], bytes_shares=[(10.0, 0.5), (0.0, 0.0)])  # 5.5 usual rows each
    assert (await admission(client).admit([request(4)], capacity=half)).statuses == [ADMITTED]


async def test_an_unattainable_deadline_behind_one_waiting_entry_is_rejected(client: Client) -> None:
    for number, status in ((1, ADMITTED), (2, DEADLINE_UNATTAINABLE)):
        assert (await admission(client).admit([request(number)], capacity=SLOW)).statuses == [status]


async def test_a_forced_admission_with_a_known_request_ignores_every_limit(client: Client) -> None:
    both = [request(1), request(2)]
    await admission(client).admit(both[:1])
    assert (await admission(client, max_entries=1).admit(both, force=True)).statuses == [ADMITTED, ADMITTED]
    both = [request(1), request(3)]
    assert (await admission(client, max_bytes=1).admit(both, force=True)).statuses == [ADMITTED, ADMITTED]
    both = [request(1), request(4)]
    assert (await admission(client).admit(both, force=True, capacity=SLOW)).statuses == [ADMITTED, ADMITTED]
    assert await client.xlen(KEYS.requests) == 4


async def test_no_limit_rejects_what_is_inflight_already(client: Client) -> None:
    await admission(client).admit([request(1), request(2)])
    for full in (admission(client, max_entries=1), admission(client, max_bytes=1)):
        assert (await full.admit([request(1), request(2), request(3)])).statuses == [ADMITTED, ADMITTED, FULL]
    assert (await admission(client).admit([request(1), request(3)], capacity=SLOW)).statuses == [
        ADMITTED,
        DEADLINE_UNATTAINABLE,
    ]
    assert await client.xlen(KEYS.requests) == 2


async def test_admitting_wakes_one_worker(client: Client) -> None:
    await admission(client).admit([request(1)])
    await admission(client).admit([request(2)])
    assert await client.lrange(KEYS.wakeup, 0, -1) == [b"1"]


async def test_a_rejected_request_wakes_nobody_and_leaves_nothing(client: Client) -> None:
    assert (await admission(client, max_entries=0).admit([request(1)])).statuses == [FULL]
    assert await client.keys("*") == []


async def test_requests_are_added_and_removed_with_one_command_each(client: Client) -> None:
    await client.config_resetstat()
    await admission(client).admit([request(1), request(2, rows=3)])
    assert await hash_commands(client) == {"hmget": 1, "hset": 1}
    await admission(client).cancel(["r1", "r2"])
    assert await hash_commands(client) == {"hmget": 2, "hset": 1, "hdel": 1}


async def test_requests_of_one_row_never_touch_the_sum_of_extra_rows(client: Client) -> None:
    await client.config_resetstat()
    await admission(client).admit([request(1), request(2)])
    await admission(client).cancel(["r1"])
    assert await hash_commands(client) == {"hmget": 2, "hset": 2, "hdel": 1}
    assert await client.hmget(KEYS.inflight, SUMS) == [b"100", None]


async def test_rejected_and_unknown_requests_cause_no_write_and_no_error(client: Client) -> None:
    await admission(client).admit([request(1, rows=3)])
    await admission(client).cancel(["r2"])  # Redis knows both scripts from now on
    await client.config_resetstat()
    assert (await admission(client, max_entries=1).admit([request(3)])).statuses == [FULL]
    assert await admission(client).cancel(["r2"]) == 0
    assert await hash_commands(client) == {"hmget": 2}
    assert await client.info("errorstats") == {}


async def test_the_description_of_inflight_is_written_with_the_first_request_only(client: Client) -> None:
    await admission(client).admit([request(1), request(2)])
    await client.hdel(KEYS.inflight, "#about")
    await admission(client).admit([request(3, rows=2)])
    await admission(client).cancel(["r1"])
    assert set(await client.hkeys(KEYS.inflight)) == {b"r2", b"r3", *(name.encode() for name in SUMS)}


async def test_a_request_whose_sums_were_deleted_leaves_nothing_inflight(client: Client) -> None:
    await admission(client).admit([request(1)])
    await client.hdel(KEYS.inflight, "#bytes", "#about")
    assert await admission(client).cancel(["r1"]) == 1
    assert not await client.exists(KEYS.inflight)


async def hash_commands(client: Client) -> dict[str, int]:
    stats = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in (await client.info("commandstats")).items()}
    return {name: calls for name, calls in stats.items() if name in ("hmget", "hset", "hdel")}


async def test_extra_rows_are_added_and_subtracted_with_their_requests(client: Client) -> None:
    extra_rows = [request(1, rows=3), request(2, rows=4), request(3), request(4)]
    await admission(client).admit(extra_rows)
    assert await client.hmget(KEYS.inflight, SUMS) == [b"400", b"5"]
    assert await admission(client).cancel(["r3"]) == 1
    assert await client.hmget(KEYS.inflight, SUMS) == [b"300", b"5"]
    assert await admission(client).cancel(["r2"]) == 1
    assert await client.hmget(KEYS.inflight, SUMS) == [b"200", b"2"]
    assert await admission(client).cancel(["r1"]) == 1
    assert set(await client.hkeys(KEYS.inflight)) == {b"r4", b"#bytes", b"#about"}
    assert await admission(client).cancel(["r4"]) == 1
    assert not await client.exists(KEYS.inflight)


async def test_a_request_cancelled_while_running_is_no_longer_pending(client: Client) -> None:
    await admission(client).admit([request(1), request(2, payload=b"l" * 100_000), request(3)])
    await claim(client, room_rows=2)
    assert await admission(client).cancel(["r2", "r1"]) == 2
    assert (await client.xpending(KEYS.requests, GROUP))["pending"] == 0
    assert [fields[b"id"] for _, fields in await client.xrange(KEYS.requests)] == [b"r3"]
    assert not await client.exists(KEYS.body("r2"))
    assert await inflight_ids(client) == [b"r3"]


async def test_cancelling_an_unknown_request_only_removes_its_payload(client: Client) -> None:
    await admission(client).admit([request(1)])
    await client.set(KEYS.body("r2"), "left over")
    assert await admission(client).cancel(["r2"]) == 0
    assert await inflight_ids(client) == [b"r1"]
    assert not await client.exists(KEYS.body("r2"))
