"""What nobody serves any more is deleted from the broker, and nothing that is still needed, on real brokers."""

from __future__ import annotations

from smartbatch.shared.broker.admin.removal import Left, remove_keys, withdraw
from smartbatch.shared.keys import Keys
from tests.brokers import Client
from tests.shared.broker.test_protocol import KEYS, admission, claim, request

OTHER = Keys(f"{KEYS.model}@2")


async def test_a_partition_with_entries_is_kept(client: Client) -> None:
    await admission(client).admit([request(1), request(2)])
    before = sorted(await client.keys("*"))
    assert await remove_keys(client, KEYS) == Left(2, 0)
    assert sorted(await client.keys("*")) == before
    assert await client.xlen(KEYS.requests) == 2


async def test_a_partition_with_a_running_entry_is_kept(client: Client) -> None:
    await admission(client).admit([request(1)])
    await claim(client)
    await client.delete(KEYS.leases)
    assert await remove_keys(client, KEYS) == Left(1, 0)
    assert await client.xlen(KEYS.requests) == 1


async def test_a_partition_with_a_worker_is_kept_until_its_lease_has_ended(client: Client) -> None:
    seconds, _ = await client.time()
    await client.zadd(KEYS.leases, {"worker": (seconds + 5) * 1000})
    assert await remove_keys(client, KEYS) == Left(0, 1)
    await client.zadd(KEYS.leases, {"worker": (seconds - 5) * 1000})
    assert await remove_keys(client, KEYS) == Left(0, 0)
    assert await client.keys("*") == []


async def test_all_keys_without_a_ttl_are_deleted_but_dead_letters(client: Client) -> None:
    await client.xgroup_create(KEYS.requests, "workers", mkstream=True)
    await client.hset(KEYS.limits, "max_batch_size", 3)
    await client.rpush(KEYS.wakeup, "1")
    await client.set(KEYS.served, "{}")
    await client.xadd(KEYS.dead, {"reason": "poison"})
    assert await remove_keys(client, KEYS) == Left(0, 0)
    assert await client.keys("*") == [KEYS.dead.encode()]
    assert await remove_keys(client, KEYS, delete_dead=True) == Left(0, 0)
    assert await client.keys("*") == []


async def test_keys_of_other_versions_are_not_touched(client: Client) -> None:
    await client.set(OTHER.served, "{}")
    await client.hset("smartbatch:models", mapping={KEYS.model: "{}", f"{KEYS.model}@2": "{}"})
    await withdraw(client, KEYS.model)
    await remove_keys(client, KEYS, delete_dead=True)
    assert await client.hkeys("smartbatch:models") == [f"{KEYS.model}@2".encode()]
    assert await client.exists(OTHER.served) == 1
