"""Where the primary of a key is, as Sentinels and the nodes of a cluster say, some of which are down or wrong."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.crc import key_slot

from smartbatch.deploy.ports import free_port
from smartbatch.shared.broker.connection import primary as module
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, MultiplexedConnection
from smartbatch.shared.broker.connection.primary import ClusterDiscovery, OneAddress, SentinelDiscovery, primaries
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.keys import MODELS, Keys, hash_tag, slot
from smartbatch.shared.redis_url import Address, parse_url
from tests.shared.broker.fake_server import FakeServer

A, B = Address("10.0.0.1", 1), Address("10.0.0.2", 2)
KEY = Keys("m").requests


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_EVERY_S", 0.0)


class Sentinel:
    """What one Sentinel says."""

    def __init__(self, primary: Address | None, epoch: int = 1) -> None:
        self.primary, self.epoch, self.silent = primary, epoch, False
        self.count = 0  # of commands

    def __call__(self, command: tuple[str, ...]) -> Any:
        self.count += 1
        if self.silent:
            return None
        match command:
            case ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"):
                return [self.primary.host, str(self.primary.port)] if self.primary else ...
            case ("SENTINEL", "MASTER", "main"):
                return ["name", "main", "config-epoch", str(self.epoch)] if self.primary else ValueError("ERR no")
            case ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", _):
                return ...
            case ("SENTINEL", "MASTER", _):
                return ValueError("ERR No such master with that name")
        return "OK"


class Node:
    """What one node of a cluster says about the slots."""

    def __init__(self, *ranges: tuple[int, int, Any], epoch: int = 1) -> None:
        self.ranges, self.epoch, self.silent = ranges, epoch, False

    def __call__(self, command: tuple[str, ...]) -> Any:
        if self.silent:
            return None
        match command:
            case ("CLUSTER", "SLOTS"):
                return [[first, last, [host, port, "id", []]] for first, last, (host, port, *_) in self.ranges]
            case ("CLUSTER", "INFO"):
                return f"cluster_state:ok\r\ncluster_current_epoch:{self.epoch}\r\n"
        return "OK"


async def sentinels(stack: AsyncExitStack, *says: Sentinel, more: tuple[Address, ...] = ()) -> SentinelDiscovery:
    servers = [await stack.enter_async_context(FakeServer(each)) for each in says]
    hosts = ",".join(str(address) for address in (*more, *(server.address for server in servers)))
    return SentinelDiscovery(parse_url(f"redis+sentinel://{hosts}/main"))


async def cluster(stack: AsyncExitStack, *says: Node, more: tuple[Address, ...] = ()) -> ClusterDiscovery:
    servers = [await stack.enter_async_context(FakeServer(each)) for each in says]
    hosts = ",".join(str(address) for address in (*more, *(server.address for server in servers)))
    return ClusterDiscovery(parse_url(f"redis+cluster://{hosts}"))


# --- slots


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        ("smartbatch:{m}:requests", "m"),
        ("smartbatch:models", "smartbatch:models"),
        ("a{}b{c}", "a{}b{c}"),
        ("a{{b}}c", "{b"),
        ("a{b", "a{b"),
        ("{a}{b}", "a"),
    ],
)
def test_the_slot_is_that_of_the_hash_tag_as_redis_py_computes_it(key: str, tag: str) -> None:
    assert hash_tag(key) == tag
    assert slot(key) == key_slot(key.encode())


# --- one server


async def test_a_plain_broker_has_one_address_for_all_keys() -> None:
    found = primaries("redis://h:7/3")
    assert isinstance(found, OneAddress)
    assert [await found.find(key) for key in ("", KEY, MODELS)] == [Address("h", 7)] * 3


# --- Sentinels


async def test_the_first_sentinel_that_answers_names_the_primary() -> None:
    silent, down = Sentinel(A), Address("127.0.0.1", free_port())
    silent.silent = True
    async with AsyncExitStack() as stack:
        discovery = await sentinels(stack, silent, Sentinel(B), more=(down,))
        assert await discovery.find(KEY) == B
        assert silent.count == 2
        discovery.failed(B)
        assert await discovery.find("other") == B  # those that did not answer are asked last
        assert silent.count == 2


async def test_what_was_found_is_kept_until_a_connection_fails() -> None:
    says = Sentinel(A)
    async with AsyncExitStack() as stack:
        discovery = await sentinels(stack, says)
        assert await discovery.find(KEY) == A
        says.primary = B
        assert await discovery.find(KEY) == A
        discovery.failed(A)
        assert await discovery.find(KEY) == B


async def test_many_connections_that_fail_at_once_ask_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_EVERY_S", 10.0)
    async with FakeServer(Sentinel(A)) as server:
        discovery = SentinelDiscovery(parse_url(f"redis+sentinel://{server.address}/main"))
        assert await asyncio.gather(*(discovery.find(KEY) for _ in range(50))) == [A] * 50
        discovery.failed(A)
        assert await discovery.find(KEY) == A
        assert server.connections == 1


async def test_a_sentinel_that_was_cut_off_is_not_believed_while_another_answers() -> None:
    old, new = Sentinel(A, epoch=3), Sentinel(B, epoch=4)
    async with AsyncExitStack() as stack:
        discovery = await sentinels(stack, new, old)
        assert await discovery.find(KEY) == B
        for _ in range(3):
            discovery.failed(B)
            assert await discovery.find(KEY) == B
        new.silent = True
        discovery.failed(B)
        assert await discovery.find(KEY) == A


async def test_without_any_sentinel_the_last_primary_is_kept_and_a_new_process_says_who_failed() -> None:
    says = Sentinel(A)
    async with AsyncExitStack() as stack:
        discovery = await sentinels(stack, says)
        assert await discovery.find(KEY) == A
        says.silent = True
        discovery.failed(A)
        assert await discovery.find(KEY) == A
    nobody = SentinelDiscovery(parse_url(f"redis+sentinel://127.0.0.1:{free_port()}/main"))
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:\d+ .*Connect call failed"):
        await nobody.find(KEY)


async def test_a_name_that_no_sentinel_knows_is_told() -> None:
    async with AsyncExitStack() as stack:
        discovery = await sentinels(stack, Sentinel(None))
        with pytest.raises(BrokerUnavailable, match="no"):
            await discovery.find(KEY)


async def test_sentinels_get_their_own_password_and_never_that_of_the_broker() -> None:
    async with FakeServer(Sentinel(A)) as server:
        url = f"redis+sentinel://me:p@{server.address}/main?sentinel_username=s&sentinel_password=q"
        assert await SentinelDiscovery(parse_url(url)).find(KEY) == A
        assert server.commands[0] == ("AUTH", "s", "q")
        assert not [command for command in server.commands if "p" in command]


# --- a cluster


async def test_each_key_has_the_primary_of_its_slot() -> None:
    assert (slot(KEY), slot(MODELS)) == (15627, 12422)
    async with AsyncExitStack() as stack:
        discovery = await cluster(stack, Node((0, 12422, A), (12423, 16000, B)))
        assert (await discovery.find(KEY), await discovery.find(MODELS)) == (B, A)
        with pytest.raises(BrokerUnavailable, match="no node serves slot 16058"):
            await discovery.find("k24")


async def test_nodes_that_a_node_named_are_asked_when_those_of_the_url_are_gone() -> None:
    first, second = Node(), Node((0, 16383, B), epoch=2)
    async with FakeServer(second) as other:
        async with FakeServer(first) as seed:
            first.ranges = ((0, 16383, other.address),)
            discovery = ClusterDiscovery(parse_url(f"redis+cluster://{seed.address}"))
            assert await discovery.find(KEY) == other.address
        discovery.failed(other.address)
        assert await discovery.find(KEY) == B


async def test_a_node_that_does_not_know_of_a_failover_is_not_believed() -> None:
    old, new = Node((0, 16383, A), epoch=7), Node((0, 16383, B), epoch=8)
    async with AsyncExitStack() as stack:
        discovery = await cluster(stack, new, old)
        for _ in range(4):
            assert await discovery.find(KEY) == B
            discovery.failed(B)


@pytest.mark.parametrize("host", ["", "?", ...])
async def test_a_node_without_an_address_is_at_the_host_that_was_asked(host: object) -> None:
    async with AsyncExitStack() as stack:
        discovery = await cluster(stack, Node((0, 16383, (host, 5))))
        assert await discovery.find(KEY) == Address("127.0.0.1", 5)


async def test_without_a_key_any_node_that_answers_will_do() -> None:
    async with FakeServer(Node((0, 8000, A), (8001, 16383, B))) as server:
        down = Address("127.0.0.1", free_port())
        discovery = ClusterDiscovery(parse_url(f"redis+cluster://{down},{server.address}"))
        assert await discovery.find("") == server.address


# --- connections


def primary_at(others: Callable[[tuple[str, ...]], Any] = lambda command: "OK", role: str = "master") -> Any:
    return lambda command: [role, 0, []] if command == ("ROLE",) else others(command)


async def test_a_connection_that_waits_at_a_demoted_primary_is_ended_and_goes_to_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WATCH_EVERY_S", 0.05)
    waits = primary_at(lambda command: None if command[0] == "BLPOP" else "OK")
    async with FakeServer(waits) as old, FakeServer(primary_at()) as new:
        says = Sentinel(old.address)
        async with FakeServer(says) as sentinel:
            url = f"redis+sentinel://{sentinel.address}/main"
            with closing(MultiplexedConnection(url, KEY, block_s=BLOCK_S)) as connection:
                waiting = asyncio.create_task(connection.execute("BLPOP", KEY, 1))
                async with asyncio.timeout(5):
                    while not old.count("BLPOP", KEY, "1"):
                        await asyncio.sleep(0.01)
                says.primary, says.epoch = new.address, 2
                started = time.monotonic()
                with pytest.raises(BrokerUnavailable, match=f"has moved to {new.address}"):
                    await waiting
                assert time.monotonic() - started < 1  # the call itself would time out after two
                assert await connection.execute("PING") == b"OK"
                assert (old.count("PING"), new.count("PING")) == (0, 1)


async def test_sentinels_and_the_primary_are_reached_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with FakeServer(primary_at(), context) as server, FakeServer(Sentinel(server.address), context) as sentinel:
        url = f"rediss+sentinel://{sentinel.address}/main"
        with closing(MultiplexedConnection(f"{url}?ssl_ca_certs={tmp_path}/ca.pem", KEY)) as connection:
            assert await connection.execute("PING") == b"OK"
        other = MultiplexedConnection(url, KEY)
        with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
            await other.execute("PING")


async def test_a_server_that_is_no_primary_is_not_used_though_a_sentinel_names_it() -> None:
    role = "slave"
    async with (
        FakeServer(lambda command: primary_at(role=role)(command)) as server,
        FakeServer(Sentinel(server.address)) as sentinel,
    ):
        with closing(MultiplexedConnection(f"redis+sentinel://{sentinel.address}/main", KEY)) as connection:
            with pytest.raises(BrokerUnavailable, match="is no primary"):
                await connection.execute("INCR", "n")
            assert server.count("INCR", "n") == 0
            role = "master"
            await connection.execute("INCR", "n")
            assert server.count("INCR", "n") == 1


ELSEWHERE = (
    "MOVED 8308 10.0.0.9:1",
    "ASK 8308 10.0.0.9:1",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN Hash slot not served",
    "READONLY You can't write against a read only replica.",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOREPLICAS Not enough good replicas to write.",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
)


@pytest.mark.parametrize("text", ELSEWHERE, ids=lambda text: text.split()[0])
async def test_a_server_that_says_it_is_not_the_one_is_left_and_nothing_is_sent_twice(text: str) -> None:
    says = Node()
    async with (
        FakeServer(lambda command: ValueError(text) if command[0] == "INCR" else "OK") as old,
        FakeServer(lambda command: "OK") as new,
        FakeServer(says) as node,
    ):
        says.ranges = ((0, 16383, old.address),)
        with closing(MultiplexedConnection(f"redis+cluster://{node.address}", KEY)) as connection:
            await connection.execute("PING")
            says.ranges = ((0, 16383, new.address),)
            with pytest.raises(BrokerUnavailable, match=text.split()[0]):
                await connection.execute("INCR", KEY)
            assert await connection.execute("PING") == b"OK"
            assert (old.count("INCR", KEY), new.count("INCR", KEY), new.count("PING")) == (1, 0, 1)


async def test_another_error_reply_does_not_end_the_connection() -> None:
    async with FakeServer(lambda command: ValueError("ERR no") if command[0] == "INCR" else "OK") as server:
        with closing(MultiplexedConnection(f"redis://{server.address}", KEY)) as connection:
            with pytest.raises(BrokerUnavailable, match="ERR no"):
                await connection.execute("INCR", KEY)
            await connection.execute("PING")
            assert server.connections == 1


async def test_a_login_that_is_not_answered_times_out_like_the_connect() -> None:
    async with FakeServer(lambda command: None) as server:
        with closing(MultiplexedConnection(f"redis://{server.address}", KEY)) as connection:
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable, match="no connection within 1 s"):
                await connection.execute("PING")
            assert time.monotonic() - started < 1.5


async def test_connections_share_one_on_a_plain_broker_and_have_one_per_hash_tag_on_a_cluster() -> None:
    for url, count in (("redis://h", 1), ("redis+sentinel://h/main", 1), ("redis+cluster://h", 3)):
        with closing(Connections(url)) as connections:
            keys = (Keys("a").requests, Keys("b").requests, Keys("a").leases, MODELS)
            assert len({connections.of(key) for key in keys}) == count
