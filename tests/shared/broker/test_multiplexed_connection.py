"""The connection to Redis: order, bounded waiting, what is lost and what isn't."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.exceptions

from smartbatch.deploy import embedded_broker
from smartbatch.shared.broker.connection.client import BLOCK_S, Client, connect
from tests.brokers import Broker

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def test_calls_of_many_tasks_get_each_its_own_answer(client: Client) -> None:
    echoed = await asyncio.gather(*(client.echo(str(n) * (n * 37 % 500 + 1)) for n in range(500)))
    assert echoed == [(str(n) * (n * 37 % 500 + 1)).encode() for n in range(500)]
    assert len(await _links(client)) == 1


async def test_a_unix_socket_is_as_good(tmp_path: Path) -> None:
    path = tmp_path / "broker.sock"
    server = Broker(str(embedded_broker.server_binary()), "--unixsocket", str(path))
    client: Client = connect(f"unix://{path}?db=0")
    try:
        assert await client.ping()
        assert await client.set("k", b"v")
        assert server.sync.get("k") == b"v"
    finally:
        await client.aclose()
        server.stop()


async def test_large_values_pass_both_ways_unchanged(client: Client) -> None:
    value = bytes(range(256)) * 40_000  # 10 MB, line ends among them
    assert await client.set("k", value, px=10_000) is True
    assert await client.get("k") == value
    assert 0 < await client.pttl("k") <= 10_000


async def test_an_error_in_a_flight_is_told_and_leaves_the_others_their_answers(client: Client) -> None:
    pipeline = client.pipeline(transaction=False)
    pipeline.set("text", "a")
    pipeline.incr("text")
    pipeline.get("text")
    done, error, value = await pipeline.execute(raise_on_error=False)
    assert (done, value) == (True, b"a")
    assert isinstance(error, redis.exceptions.ResponseError)
    with pytest.raises(redis.exceptions.ResponseError, match="not an integer"):
        await client.incr("text")
    assert await client.ping()


async def test_a_transaction_still_is_one(client: Client) -> None:
    pipeline = client.pipeline(transaction=True)
    pipeline.incr("n")
    pipeline.incr("n")
    assert await pipeline.execute() == [1, 2]


async def test_a_lost_connection_fails_what_was_sent_and_the_next_call_connects_anew(any_broker: Broker) -> None:
    client, other = connect(any_broker.url, block_s=BLOCK_S), connect(any_broker.url)
    try:
        before = await client.client_id()
        waiting = asyncio.create_task(client.blpop(["nothing"], 1))
        await _until_blocked(any_broker, True)
        await other.client_kill_filter(_id=str(before))
        with pytest.raises(redis.exceptions.ConnectionError):
            await waiting
        assert await client.client_id() != before
    finally:
        await client.aclose()
        await other.aclose()


async def test_a_cancelled_blocking_read_takes_nothing_any_more(any_broker: Broker) -> None:
    client, other = connect(any_broker.url, block_s=BLOCK_S), connect(any_broker.url)
    try:
        waiting = asyncio.create_task(client.blpop(["list"], 1))
        await _until_blocked(any_broker, True)
        waiting.cancel()
        await asyncio.wait([waiting])
        await _until_blocked(any_broker, False)
        await other.rpush("list", "kept")
        assert await client.lpop("list") == b"kept"
    finally:
        await client.aclose()
        await other.aclose()


async def test_a_cancelled_call_of_a_shared_link_disturbs_no_other(client: Client) -> None:
    await client.ping()
    calls = [asyncio.create_task(client.echo(str(n))) for n in range(10)]
    await asyncio.sleep(0)  # sent, not answered
    calls[4].cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [n for n, answer in enumerate(answers) if answer == str(n).encode()] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert len(await _links(client)) == 1


async def test_silence_is_given_up_after_the_timeout() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with _server(mute) as client:
        started = asyncio.get_running_loop().time()
        answers = await asyncio.gather(client.ping(), client.get("k"), return_exceptions=True)
        assert {type(answer) for answer in answers} == {redis.exceptions.TimeoutError}
        assert 0.3 <= asyncio.get_running_loop().time() - started < 10


async def test_an_answer_that_keeps_coming_is_waited_for() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"$100\r\n")
        for _ in range(10):  # a second in all, three times the timeout
            await asyncio.sleep(0.1)
            writer.write(b"x" * 10)
        writer.write(b"\r\n")
        await reader.read()

    async with _server(slow) as client:
        assert await client.get("k") == b"x" * 100


@pytest.mark.parametrize("others", [False, True])
async def test_a_value_that_still_leaves_is_waited_for(others: bool) -> None:
    size = 20_000_000  # several times what the kernel takes at once

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came = 0
        while came < size:
            came += len(await reader.read(128 * 1024))
            await asyncio.sleep(0.01)
        writer.write(b"+OK\r\n")
        await reader.read()

    async with _server(slow, timeout_s=1.0) as client:
        started = asyncio.get_running_loop().time()
        large = asyncio.create_task(client.set("k", b"x" * size))
        pings: list[asyncio.Task[bool]] = []
        while not large.done():
            if others:
                pings.append(asyncio.create_task(client.ping()))
            await asyncio.wait([large], timeout=0.005)
        assert large.result() is True
        assert asyncio.get_running_loop().time() - started > 1.2
        for ping in pings:
            ping.cancel()
        await asyncio.gather(*pings, return_exceptions=True)


async def test_a_slow_reader_is_told_from_one_that_stopped() -> None:
    async def stop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1_000_000)
        await asyncio.sleep(20)

    async with _server(stop, timeout_s=0.5) as client:
        started = asyncio.get_running_loop().time()
        with pytest.raises(redis.exceptions.TimeoutError):
            await client.set("k", b"x" * 50_000_000)
        assert asyncio.get_running_loop().time() - started < 10


async def test_what_cannot_be_sent_takes_nobody_elses_answer(client: Client) -> None:
    await client.set("a", "1")
    with pytest.raises(UnicodeEncodeError):
        await client.get("\ud800")
    assert await client.get("a") == b"1"
    assert await client.echo("b") == b"b"


async def test_what_is_no_answer_of_redis_ends_the_connection() -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with _server(other) as client:
        with pytest.raises(redis.exceptions.InvalidResponse):
            await client.ping()


async def test_everybody_who_waits_for_a_connection_learns_that_there_is_none(unused_tcp_port: int) -> None:
    client = connect(f"redis://127.0.0.1:{unused_tcp_port}/0")
    answers = await asyncio.gather(*(client.ping() for _ in range(20)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {redis.exceptions.ConnectionError}
    await client.aclose()


async def test_closing_fails_what_is_under_way(any_broker: Broker) -> None:
    client = connect(any_broker.url, block_s=BLOCK_S)
    await client.ping()
    waiting = asyncio.create_task(client.blpop(["nothing"], 1))
    await asyncio.sleep(0.01)
    await client.aclose()
    with pytest.raises(redis.exceptions.ConnectionError):
        await waiting


async def _until_blocked(broker: Broker, blocked: bool) -> None:
    async with asyncio.timeout(5):
        while bool(broker.sync.info("clients")["blocked_clients"]) != blocked:
            await asyncio.sleep(0.01)


async def _links(client: Client) -> list[dict[str, str]]:
    return [link for link in await client.client_list() if link["name"] == "smartbatch"]


@asynccontextmanager
async def _server(serve: Serve, timeout_s: float = 0.3) -> AsyncIterator[Client]:
    """A client of something that says OK to the handshake and then does what `serve` does."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"smartbatch\r\n")  # CLIENT SETNAME
        writer.write(b"+OK\r\n")
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    client = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    client.link._timeout_s = timeout_s
    try:
        yield client
    finally:
        await client.aclose()
        await ended.wait()
        server.close()
        await server.wait_closed()
