"""The shared usage of API keys, on both brokers."""

from __future__ import annotations

import time
from typing import Any

import pytest

from smartbatch.shared.broker.queue.usage import KeyUsage, Usage
from smartbatch.shared.keys import BUCKETS, counts, seen
from tests.brokers import Broker

DAY = "2030-01-02"


async def test_usage_of_two_processes_shares_one_bucket_and_one_count(client: Any) -> None:
    first, second = Usage(client, "g1"), Usage(client, "g2")
    assert await first.exchange(1, DAY, 0, [KeyUsage("app", 0.001, 10, 4, 4)]) == [(pytest.approx(6, abs=0.01), 4)]
    assert await second.exchange(1, DAY, 0, [KeyUsage("app", 0.001, 10, 3, 3)]) == [(pytest.approx(3, abs=0.01), 7)]
    assert await first.exchange(2, DAY, 0, [KeyUsage("app", 0.001, 10, 0, 0)]) == [(pytest.approx(3, abs=0.01), 7)]


async def test_a_call_that_is_sent_again_counts_once(client: Any) -> None:
    usage = Usage(client, "g1")
    line = [KeyUsage("app", 0.001, 10, 4, 4)]
    for _ in range(3):
        assert await usage.exchange(7, DAY, 0, line) == [(pytest.approx(6, abs=0.01), 4)]
    assert await usage.exchange(6, DAY, 0, line) == [(pytest.approx(6, abs=0.01), 4)]  # a delayed copy
    assert await usage.exchange(7, DAY, 0, line) == [(pytest.approx(6, abs=0.01), 4)]


async def test_a_bucket_can_be_in_debt_and_refills(client: Any) -> None:
    usage = Usage(client, "g1")
    [(left, _)] = await usage.exchange(1, DAY, 0, [KeyUsage("app", 100, 10, 25, 0)])
    assert left == pytest.approx(-15, abs=0.01)
    started_at = time.monotonic()
    while left < 10:
        [(left, _)] = await usage.exchange(2, DAY, 0, [KeyUsage("app", 100, 10, 0, 0)])
    assert 0.2 < time.monotonic() - started_at < 10  # 25 tokens at 100 a second


async def test_a_long_pause_does_not_compensate_later_usage(client: Any, any_broker: Broker) -> None:
    """The bucket has been full for long. The burst was in the last second, and only that second refills it."""
    usage = Usage(client, "g1")
    await usage.exchange(1, DAY, 1000, [KeyUsage("app", 5, 100, 1, 0)])
    tokens, at = any_broker.sync.hget(BUCKETS, "app").decode().split("|")
    any_broker.sync.hset(BUCKETS, "app", f"{tokens}|{int(at) - 3_600_000}")
    [(left, _)] = await usage.exchange(2, DAY, 1000, [KeyUsage("app", 5, 100, 100, 0)])
    assert left == pytest.approx(5, abs=0.01)


async def test_days_are_counted_separately_and_expire(client: Any, any_broker: Broker) -> None:
    usage = Usage(client, "g1")
    assert await usage.exchange(1, DAY, 0, [KeyUsage("app", 0, 1, 5, 5), KeyUsage("b", 0, 1, 0, -2)]) == [
        (1.0, 5),
        (1.0, -2),
    ]
    assert await usage.exchange(2, "2030-01-03", 0, [KeyUsage("app", 0, 1, 1, 1)]) == [(1.0, 1)]
    assert await usage.exchange(3, DAY, 0, []) == []
    assert 0 < any_broker.sync.ttl(counts(DAY)) <= 48 * 3600
    assert any_broker.sync.exists(BUCKETS) == 0  # without a rate there is no bucket


async def test_a_thousand_keys_need_one_call(client: Any) -> None:
    usage = Usage(client, "g1")
    results = await usage.exchange(1, DAY, 0, [KeyUsage(f"k{n}", 0.001, 10, 1, n) for n in range(1000)])
    assert [counted for _, counted in results] == list(range(1000))


async def test_report_numbers_are_kept_as_long_as_a_report_may_be_resent(client: Any, any_broker: Broker) -> None:
    redis = any_broker.sync
    await Usage(client, "g1").exchange(7, DAY, 0, [KeyUsage("app", 0.001, 10, 4, 4)])
    assert redis.get(seen("g1")) == b"7"
    assert 3590 < redis.ttl(seen("g1")) <= 3600
    assert 24 * 3600 - 10 < redis.ttl(BUCKETS) <= 24 * 3600
    assert 48 * 3600 - 10 < redis.ttl(counts(DAY)) <= 48 * 3600


async def test_no_usage_writes_nothing(client: Any, any_broker: Broker) -> None:
    assert await Usage(client, "g1").exchange(1, DAY, 0, [KeyUsage("app", 1, 10, 0, 0)]) == [(10.0, 0)]
    assert any_broker.sync.exists(BUCKETS, counts(DAY)) == 0


@pytest.mark.parametrize(
    ("held", "before_s", "since_s", "spent", "left"),
    [
        pytest.param("40", 20, 0, 0, 60, id="it fills while nobody asks"),
        pytest.param("40", 20, 10, 30, 30, id="it fills before and while it is spent from"),
        pytest.param("40", 600, 10, 30, 80, id="it is full before, and fills again while it is spent from"),
        pytest.param("40", 600, 0, 0, 100, id="it holds no more than its burst"),
        pytest.param("95", 10, 10, 1, 100, id="nor after it was spent from"),
        pytest.param("40", 10, 600, 30, 20, id="it fills only since the last report"),
        pytest.param("40", -600, 10, 30, 10, id="a clock that stepped back fills nothing"),
        pytest.param("-40", 20, 20, 30, -50, id="debt is paid first"),
        pytest.param("rubbish", 20, 20, 30, 90, id="it is full where no number stands"),
    ],
)
async def test_a_bucket_fills_at_its_rate_up_to_its_burst(
    client: Any, any_broker: Broker, held: str, before_s: int, since_s: int, spent: int, left: float
) -> None:
    """The rate is one token per second, the burst a hundred."""
    at_s, _ = any_broker.sync.time()
    any_broker.sync.hset(BUCKETS, "app", f"{held}|{(at_s - before_s) * 1000}")
    [(found, _)] = await Usage(client, "g1").exchange(1, DAY, since_s * 1000, [KeyUsage("app", 1, 100, spent, 0)])
    assert left <= found < left + 6  # the call may take seconds


async def test_a_clock_that_stepped_back_adds_no_token(client: Any, any_broker: Broker) -> None:
    at_s, _ = any_broker.sync.time()
    any_broker.sync.hset(BUCKETS, "app", f"40|{(at_s + 3600) * 1000}")
    assert await Usage(client, "g1").exchange(1, DAY, 1000, [KeyUsage("app", 1000, 100, 30, 0)]) == [(10.0, 0)]


async def test_a_bucket_fills_for_hours_at_its_rate(client: Any, any_broker: Broker) -> None:
    at_s, _ = any_broker.sync.time()
    any_broker.sync.hset(BUCKETS, "app", f"0|{(at_s - 36_000) * 1000}")
    [(left, _)] = await Usage(client, "g1").exchange(1, DAY, 0, [KeyUsage("app", 1, 100_000, 0, 0)])
    assert 36_000 <= left < 36_006  # seconds that the call may have taken
