"""What a real system with several partitions shows of them."""

from __future__ import annotations

from collections.abc import Callable

from tests.brokers import Broker, eventually
from tests.deploy.test_cli import Ended
from tests.system.stack import Stack
from tests.system.test_batching import bodies, send_all


async def test_stats_metrics_and_limits_of_three_partitions(stack: Callable[..., Stack], broker: Broker) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=2,row_ms=0.1", PARTITIONS=3)
    system.up(3)
    await send_all(system.url, bodies(60), 8)
    each = eventually(lambda: (p := system.stats()["partitions"]) and all(n["workers"] for n in p.values()) and p, 20)
    assert list(each) == ["0", "1", "2"]
    assert {number["reachable"] for number in each.values()} == {True}
    assert len(system.stats()["workers"]) == 3
    eventually(lambda: system.stats()["outcomes"] == {"ok": 60}, 10)  # counted once, though reported to each partition
    assert len(system.stats()["gateways"]) == 1
    samples = system.client.get(f"{system.url}/metrics").text.splitlines()
    for number in range(3):
        assert f'smartbatch_partition_up{{model="simulated",partition="{number}",version="1"}} 1.0' in samples
        assert f'smartbatch_partition_waiting{{model="simulated",partition="{number}",version="1"}} 0.0' in samples
    assert 'smartbatch_workers{model="simulated",state="ready",version="1"} 3.0' in samples
    ended = Ended("limits", "--max-batch-size", "3", REDIS_URL=broker.url)
    assert ended.out == ["simulated: MAX_BATCH_SIZE=3 for 3 workers within a second, and for workers that start later"]
    eventually(lambda: {w["max_batch_size"] for w in system.stats()["workers"].values()} == {3}, 10)
