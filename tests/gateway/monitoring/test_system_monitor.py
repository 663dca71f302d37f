"""The system monitor with unexpected data on the broker."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast
from unittest.mock import Mock

import msgspec
import pytest

from smartbatch.gateway.core.response_types import PartitionStats
from smartbatch.gateway.monitoring.model_view import describe
from smartbatch.gateway.monitoring.system_monitor import GATEWAYS_PER_READ, SystemMonitor
from smartbatch.gateway.web.metrics_page import _system
from smartbatch.shared.broker.admin import registry, routes
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.keys import MODELS, Keys, model_id, partition_tag
from smartbatch.shared.model_info import InputSpec, ModelInfo, encode
from smartbatch.shared.routing import Promotion, RoutingTable
from smartbatch.shared.settings import from_environment
from tests.brokers import Broker, Client

GOOD, BAD = Keys("good"), Keys("bad")


@pytest.fixture
async def monitor(any_broker: Broker):
    monitor = SystemMonitor(from_environment({"REDIS_URL": any_broker.url, "MODEL_NAME": "good"}), "g1", {})
    yield monitor
    await monitor.close()


def test_the_default_version_is_the_one_that_gets_most_of_the_requests() -> None:
    monitor = SystemMonitor(from_environment({"MODEL_NAME": "m", "MODEL_VERSION": "7"}), "g1", {})
    assert (monitor.versions("m"), monitor.versions("other"), monitor.model_names) == ([7], [], ["m@7"])
    infos = [ModelInfo("m", "x", InputSpec(("raw",)), 8, version=version) for version in (1, 2, 3)]
    announced = {info.id: info for info in infos}

    def default(ready: tuple[int, ...], **weights: float) -> int:
        tables = {"m": RoutingTable(weights={int(name[1:]): weight for name, weight in weights.items()})}
        monitor.known.update(announced, tables if weights else {})
        models = [model_id("m", version) for version in ready]
        monitor.snapshots = {model: Snapshot(model, workers={"w": {"state": "ready"}}) for model in models}
        return monitor.default_version("m")

    assert default((1, 2)) == 2  # the highest that is ready
    assert default(()) == 3
    assert default((1, 2, 3), v1=90, v2=10) == 1
    assert default((2, 3), v1=90, v2=10) == 2
    assert default((3,), v1=90, v2=10) == 1  # none that has a weight is ready: requests wait for the first
    assert (monitor.versions("m"), monitor.model_names) == ([1, 2, 3], ["m", "m@2", "m@3"])


async def _worker(client: Client, keys: Keys, worker_id: str, **report: str | bytes) -> None:
    now_ms = (await client.time())[0] * 1000
    await client.zadd(keys.leases, {worker_id: now_ms + 60_000})
    await client.hset(keys.worker(worker_id), mapping={"state": "ready", "capacity_rows_per_s": "100", **report})


async def test_invalid_reports_hide_no_other_worker(client: Client, monitor: SystemMonitor) -> None:
    await _worker(client, GOOD, "w1")
    await _worker(client, GOOD, "w2", host=b"\xff\xfe", batch_full_s=b"\xff")
    await _worker(client, GOOD, "w3")
    await client.delete(GOOD.worker("w3"))
    await client.set(GOOD.worker("w3"), "no hash")
    await monitor._read()
    assert monitor.snapshots["good"].ready_workers == ["w1", "w2"]
    assert monitor.capacities["good"].rows_per_s == pytest.approx(180)  # nine tenths
    assert monitor.fresh


async def test_a_model_with_keys_of_another_type_hides_no_other(client: Client, monitor: SystemMonitor) -> None:
    await _worker(client, GOOD, "w1")
    await client.set(BAD.leases, "no sorted set")
    monitor._queues = cast(Any, {"bad": Mock()})
    await monitor._read()
    assert set(monitor.snapshots) == {"good"}
    assert monitor.fresh
    monitor._queues = {}


async def _backlog_s(client: Client, monitor: SystemMonitor, entries: int) -> float:
    await client.delete(GOOD.requests)
    for number in range(entries):
        await client.xadd(GOOD.requests, {"id": f"r{number}"})
    await monitor._read()
    return monitor.backlog_s(monitor.snapshots["good"])


async def test_a_slow_read_does_not_overwrite_a_later_one(
    client: Client, monitor: SystemMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, begun, goes_on = registry.snapshot, asyncio.Event(), asyncio.Event()

    async def snapshot(connection: MultiplexedConnection, tag: str) -> Snapshot:
        found = await read(connection, tag)
        if not begun.is_set():
            begun.set()
            await goes_on.wait()
        return found

    monkeypatch.setattr(registry, "snapshot", snapshot)
    running = asyncio.create_task(monitor.run())
    await begun.wait()
    await _worker(client, GOOD, "w1")
    refreshed = asyncio.create_task(monitor.refresh())
    await asyncio.sleep(0.1)
    goes_on.set()
    await refreshed
    await asyncio.sleep(0.1)  # the first read would have been taken over by now
    running.cancel()
    assert monitor.is_ready("good")


async def test_the_backlog_is_the_time_of_one_worker_also_after_the_last_one_has_left(
    client: Client, monitor: SystemMonitor
) -> None:
    await _worker(client, GOOD, "w1")
    await _worker(client, GOOD, "w2", capacity_rows_per_s="300")
    assert await _backlog_s(client, monitor, 90) == pytest.approx(0.5)  # at nine tenths of the mean
    await client.delete(GOOD.leases)
    assert await _backlog_s(client, monitor, 90) == pytest.approx(0.5)
    assert await _backlog_s(client, monitor, 0) == 0


async def test_any_entry_is_a_second_of_work_before_the_first_worker(client: Client, monitor: SystemMonitor) -> None:
    assert await _backlog_s(client, monitor, 0) == 0
    assert await _backlog_s(client, monitor, 1) == 1
    assert await _backlog_s(client, monitor, 500) == 1


async def test_a_model_that_is_only_known_has_one_series(client: Client, monitor: SystemMonitor) -> None:
    known = [ModelInfo(f"idle{n}", "x", InputSpec(("raw",)), 8, version=2) for n in range(50)]
    await client.hset(MODELS, mapping={info.id: encode(info) for info in known})
    await _worker(client, Keys("idle0@2"), "w1")
    await _worker(client, Keys("idle1@2"), "w1")
    await client.delete(Keys("idle1@2").leases)
    await client.xadd(Keys("idle2@2").requests, {"id": "r"})
    await client.sadd(Keys("idle3@2").gateways, "g")
    await client.hset(Keys("idle3@2").gateway("g"), "in_flight", "0")
    await client.xadd(Keys("idle4@2").dead, {"id": "r"})
    await monitor._read()
    families = list(_system(monitor, list(monitor.snapshots.values())))
    series = Counter(sample.labels["model"] for family in families for sample in family.samples)
    in_use = {"idle0", "idle2", "idle3", "idle4"}
    assert {series[name] for name in in_use} == {12}
    assert {series[info.name] for info in known} == {1, 12}
    assert {info.name for info in known if series[info.name] > 1} == in_use
    assert {sample.labels["version"] for family in families for sample in family.samples} == {"1", "2"}


async def test_a_model_that_many_gateways_read_is_read_less_often_and_stays_known(
    client: Client, monitor: SystemMonitor
) -> None:
    await _worker(client, GOOD, "w1")
    for number in range(2 * GATEWAYS_PER_READ):
        await client.sadd(GOOD.gateways, f"g{number}")
        await client.hset(GOOD.gateway(f"g{number}"), "in_flight", "0")
    await monitor._read()
    known = monitor.capacities["good"]
    await client.delete(GOOD.leases)
    monitor._reads += 1
    await monitor._read()
    assert monitor.capacities["good"] == known and monitor.fresh and monitor.snapshots["good"].ready_workers
    monitor._reads += 1
    await monitor._read()
    assert monitor.capacities["good"].workers == 0
    monitor._reads += 1
    monitor._connections.close()  # whether anything is due or not, a read that reads nothing fails
    monitor._connections = Connections("redis://127.0.0.1:1/0")
    with pytest.raises(BrokerUnavailable):
        await monitor._read()


# --- partitions


@pytest.fixture
async def partitioned(any_broker: Broker):
    settings = from_environment({"REDIS_URL": any_broker.url, "MODEL_NAME": "good", "PARTITIONS": "3"})
    monitor = SystemMonitor(settings, "g1", {})
    yield monitor
    await monitor.close()


def _samples(monitor: SystemMonitor, name: str) -> dict[str, float]:
    families = _system(monitor, list(monitor.snapshots.values()))
    return {
        sample.labels["partition"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == f"smartbatch_partition_{name}" and sample.labels["model"] == "good"
    }


async def test_stats_and_metrics_are_of_all_partitions_and_of_each(client: Client, partitioned: SystemMonitor) -> None:
    for number, entries in ((0, 2), (2, 3)):
        for n in range(entries):
            await client.xadd(Keys(partition_tag("good", number)).requests, {"id": f"r{n}"})
    await _worker(client, GOOD, "w1")
    await _worker(client, GOOD, "w2", state="loading")
    await _worker(client, Keys("good:2"), "w1")
    await partitioned._read()
    stats = describe(partitioned.snapshots["good"])
    assert (stats.queue.waiting, sorted(stats.workers)) == (5, ["w1", "w2"])
    assert stats.partitions == {
        0: PartitionStats(2, 0, 0.0, 1, True),
        1: PartitionStats(0, 0, 0.0, 0, True),
        2: PartitionStats(3, 0, 0.0, 1, True),
    }
    assert _samples(partitioned, "waiting") == {"0": 2, "1": 0, "2": 3}
    assert _samples(partitioned, "workers") == {"0": 1, "1": 0, "2": 1}
    assert _samples(partitioned, "up") == {"0": 1, "1": 1, "2": 1}


async def test_a_partition_that_cannot_be_read_is_shown_as_away(client: Client, partitioned: SystemMonitor) -> None:
    await client.xadd(GOOD.requests, {"id": "r"})
    await client.set(Keys("good:1").leases, "no sorted set")
    await partitioned._read()
    stats = describe(partitioned.snapshots["good"])
    assert stats.queue.waiting == 1
    assert isinstance(stats.partitions, dict)
    assert [each.reachable for each in stats.partitions.values()] == [True, False, True]
    assert _samples(partitioned, "up") == {"0": 1, "1": 0, "2": 1}


async def test_a_single_partition_has_no_view_of_its_own(client: Client, monitor: SystemMonitor) -> None:
    await client.xadd(GOOD.requests, {"id": "r"})
    await monitor._read()
    assert b"partitions" not in msgspec.json.encode(describe(monitor.snapshots["good"]))
    assert _samples(monitor, "up") == {}


ROUTING = ("smartbatch_route_weight", "smartbatch_promotion_aborted")


async def test_metrics_show_weights_and_aborted_promotions_of_models_that_have_a_table(
    client: Client, monitor: SystemMonitor
) -> None:
    def samples() -> list[tuple]:
        found = [sample for family in _system(monitor, [*monitor.snapshots.values()]) for sample in family.samples]
        return [(each.name, *each.labels.values(), each.value) for each in found if each.name in ROUTING]

    await _worker(client, GOOD, "w1")
    await monitor._read()
    assert samples() == []
    aborted = RoutingTable({1: 30.0, 2: 10.0}, promotion=Promotion(3, "aborted", "errors"))
    await routes.update(client, "a", lambda _: aborted, who="", what="")
    await routes.update(client, "b", lambda _: RoutingTable(sticky="x-user"), who="", what="")
    await routes.update(client, "c", lambda _: RoutingTable({7: 0.5}, promotion=Promotion(7, "done")), who="", what="")
    await monitor._read()
    assert samples() == [
        ("smartbatch_route_weight", "a", "1", 0.75),
        ("smartbatch_route_weight", "a", "2", 0.25),
        ("smartbatch_route_weight", "c", "7", 1.0),
        ("smartbatch_promotion_aborted", "a", "3", 1),
        ("smartbatch_promotion_aborted", "c", "7", 0),
    ]


async def test_a_gateways_rank_is_by_id_and_stays_while_the_broker_of_the_reports_is_away(
    client: Client, partitioned: SystemMonitor
) -> None:
    queue = Mock(model="good")
    partitioned._queues = {"good": queue}
    await partitioned._read()
    assert not queue.set_rank.called
    for gateway_id in ("g0", "g1", "g2"):
        await client.sadd(GOOD.gateways, gateway_id)
        await client.hset(GOOD.gateway(gateway_id), "in_flight", "0")
    await partitioned._read()
    queue.set_rank.assert_called_once_with(1, 3)
    await client.set(GOOD.leases, "no sorted set")
    await partitioned._read()
    assert not partitioned.snapshots["good"].gateways
    queue.set_rank.assert_called_once_with(1, 3)
