"""The connection to Redis: login, order, timeouts, and behavior when a connection is lost."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trustme

from smartbatch.deploy import embedded_broker
from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, MultiplexedConnection
from smartbatch.shared.errors import BrokerUnavailable
from tests.brokers import Broker

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def connection(any_broker: Broker) -> AsyncIterator[MultiplexedConnection]:
    with closing(MultiplexedConnection(any_broker.url)) as connection:
        yield connection


async def test_each_of_many_concurrent_calls_gets_its_own_reply(connection: MultiplexedConnection) -> None:
    echoed = await asyncio.gather(*(connection.execute("ECHO", str(n) * (n * 37 % 500 + 1)) for n in range(500)))
    assert echoed == [(str(n) * (n * 37 % 500 + 1)).encode() for n in range(500)]
    await _only_connection(connection)


async def test_it_logs_in_as_its_url_says(broker: Broker, tmp_path: Path) -> None:
    broker.sync.acl_setuser("me", enabled=True, passwords=["+p/w @"], commands=["+@all"], keys=["*"])
    (tmp_path / "password").write_text("p/w @\n")
    address = f"127.0.0.1:{broker.port}/3"
    for url in (
        f"redis://me:p%2Fw%20%40@{address}",
        f"redis://{address}?username=me&password=p%2Fw%20%40",
        f"redis://me@{address}?password_file={tmp_path}/password",
    ):
        with closing(MultiplexedConnection(url)) as connection:
            line = await _only_connection(connection)
            assert b" db=3 " in line
            assert b" user=me " in line


async def test_nothing_is_sent_before_it_is_logged_in(broker: Broker, tmp_path: Path) -> None:
    broker.sync.acl_setuser("me", enabled=True, passwords=["+right"], commands=["+@all"], keys=["*"])
    password = tmp_path / "password"
    connection = MultiplexedConnection(f"redis://me@127.0.0.1:{broker.port}/0?password_file={password}")
    with pytest.raises(BrokerUnavailable, match="No such file"):
        await connection.execute("PING")
    password.write_text("wrong")
    results = await asyncio.gather(*(connection.execute("INCR", "n") for _ in range(3)), return_exceptions=True)
    assert all("WRONGPASS" in str(result) for result in results)
    assert broker.sync.get("n") is None
    assert connection.generation == 0
    password.write_text("right")
    assert await connection.execute("INCR", "n") == 1
    assert connection.generation == 1
    connection.close()
    with pytest.raises(BrokerUnavailable, match="DB index"):
        await MultiplexedConnection(f"redis://127.0.0.1:{broker.port}/99").execute("INCR", "n")
    assert broker.sync.get("n") == b"1"


async def test_it_connects_to_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "broker.sock"
    server = Broker(str(embedded_broker.server_binary()), "--unixsocket", str(path))
    connection = MultiplexedConnection(f"unix://{path}?db=0")
    try:
        assert await connection.execute("PING")
        assert await connection.execute("SET", "k", b"v")
        assert server.sync.get("k") == b"v"
    finally:
        connection.close()
        server.stop()


async def test_large_values_are_sent_and_received_unchanged(connection: MultiplexedConnection) -> None:
    value = bytes(range(256)) * 40_000  # 10 MB, line ends among them
    assert await connection.execute("SET", "k", value, "PX", 10_000) == b"OK"
    assert await connection.execute("GET", "k") == value
    assert 0 < await connection.execute("PTTL", "k") <= 10_000


async def test_an_error_is_raised_and_other_commands_get_their_replies(connection: MultiplexedConnection) -> None:
    commands = [("SET", "text", "a"), ("INCR", "text"), ("GET", "text")]
    done, error, value = await connection.call(commands, return_errors=True)
    assert (done, value) == (b"OK", b"a")
    assert isinstance(error, BrokerUnavailable)
    with pytest.raises(BrokerUnavailable, match="not an integer"):
        await connection.call(commands)
    with pytest.raises(BrokerUnavailable, match="not an integer"):
        await connection.execute("INCR", "text")
    assert await connection.execute("PING")


async def test_a_transaction_stays_atomic(connection: MultiplexedConnection) -> None:
    commands = [("MULTI",), ("INCR", "n"), ("INCR", "n"), ("EXEC",)]
    results = await asyncio.gather(*(connection.call(commands) for _ in range(3)))
    assert [result for *_, result in results] == [[1, 2], [3, 4], [5, 6]]


async def test_an_empty_call_sends_nothing(connection: MultiplexedConnection) -> None:
    assert await connection.call([]) == []
    assert await connection.execute("ECHO", "a") == b"a"


async def test_a_lost_connection_fails_sent_calls_and_the_next_call_reconnects(any_broker: Broker) -> None:
    connection, other = MultiplexedConnection(any_broker.url, block_s=BLOCK_S), MultiplexedConnection(any_broker.url)
    try:
        before = await connection.execute("CLIENT", "ID")
        waiting = asyncio.create_task(connection.execute("BLPOP", "nothing", 1))
        await _until_blocked(any_broker, True)
        await other.execute("CLIENT", "KILL", "ID", before)
        with pytest.raises(BrokerUnavailable, match="closed the connection"):
            await waiting
        assert await connection.execute("CLIENT", "ID") != before
    finally:
        connection.close()
        other.close()


async def test_a_cancelled_blocking_read_consumes_nothing(any_broker: Broker) -> None:
    connection, other = MultiplexedConnection(any_broker.url, block_s=BLOCK_S), MultiplexedConnection(any_broker.url)
    try:
        waiting = asyncio.create_task(connection.execute("BLPOP", "list", 1))
        await _until_blocked(any_broker, True)
        waiting.cancel()
        await asyncio.wait([waiting])
        await _until_blocked(any_broker, False)
        await other.execute("RPUSH", "list", "kept")
        assert await connection.execute("LPOP", "list") == b"kept"
    finally:
        connection.close()
        other.close()


async def test_a_cancelled_call_of_a_shared_connection_disturbs_no_other(connection: MultiplexedConnection) -> None:
    await connection.execute("PING")
    calls = [asyncio.create_task(connection.execute("ECHO", str(n))) for n in range(10)]
    await asyncio.sleep(0)  # sent, without a reply
    calls[4].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [n for n, result in enumerate(results) if result == str(n).encode()] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    await _only_connection(connection)


async def test_a_silent_server_times_out() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with _server(mute) as connection:
        started = asyncio.get_running_loop().time()
        results = await asyncio.gather(*(connection.execute("PING") for _ in range(2)), return_exceptions=True)
        assert {type(result) for result in results} == {BrokerUnavailable}
        assert {str(result).rpartition(": ")[2] for result in results} == {"no reply within 0.3 s"}
        assert 0.3 <= asyncio.get_running_loop().time() - started < 10


async def test_a_slow_but_steady_reply_does_not_time_out() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"$100\r\n")
        for _ in range(10):  # a second in all, three times the timeout
            await asyncio.sleep(0.1)
            writer.write(b"x" * 10)
        writer.write(b"\r\n")
        await reader.read()

    async with _server(slow) as connection:
        assert await connection.execute("GET", "k") == b"x" * 100


@pytest.mark.parametrize(("others", "tls"), [(False, False), (True, False), (True, True)])
async def test_a_slow_but_steady_send_does_not_time_out(others: bool, tls: bool, tmp_path: Path) -> None:
    size = 20_000_000  # several times the kernel's buffer

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = 0
        while received < size:
            received += len(await reader.read(128 * 1024))
            await asyncio.sleep(0.01)
        writer.write(b"+OK\r\n")
        await reader.read()

    async with _server(slow, timeout_s=1.0, tls_folder=tmp_path if tls else None) as connection:
        started = asyncio.get_running_loop().time()
        large = asyncio.create_task(connection.execute("SET", "k", b"x" * size))
        pings: list[asyncio.Task[bytes]] = []
        while not large.done():
            if others:
                pings.append(asyncio.create_task(connection.execute("PING")))
            await asyncio.wait([large], timeout=0.005)
        assert large.result() == b"OK"
        assert asyncio.get_running_loop().time() - started > 1.2
        for ping in pings:
            ping.cancel()
        await asyncio.gather(*pings, return_exceptions=True)


async def test_a_stopped_reader_times_out_and_a_slow_one_does_not() -> None:
    over = asyncio.Event()

    async def stop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1_000_000)
        await over.wait()

    async with _server(stop, timeout_s=0.5) as connection:
        with pytest.raises(BrokerUnavailable, match="no reply within"):
            await connection.execute("SET", "k", b"x" * 50_000_000)
        over.set()


async def test_a_call_that_cannot_be_encoded_shifts_no_replies(connection: MultiplexedConnection) -> None:
    await connection.execute("SET", "a", "1")
    with pytest.raises(UnicodeEncodeError):
        await connection.execute("GET", "\ud800")
    assert await connection.execute("GET", "a") == b"1"
    assert await connection.execute("ECHO", "b") == b"b"


async def test_invalid_protocol_data_ends_the_connection() -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with _server(other) as connection:
        with pytest.raises(BrokerUnavailable, match="invalid data from the server"):
            await connection.execute("PING")


async def test_a_failed_connect_fails_every_waiting_call(unused_tcp_port: int) -> None:
    connection = MultiplexedConnection(f"redis://127.0.0.1:{unused_tcp_port}/0")
    results = await asyncio.gather(*(connection.execute("PING") for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {BrokerUnavailable}
    connection.close()


async def test_a_connection_lost_before_the_login_is_reported(any_broker: Broker) -> None:
    class Lost(MultiplexedConnection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.connection_lost(None)

    with closing(Lost(any_broker.url)) as connection, pytest.raises(BrokerUnavailable, match="closed the connection"):
        await connection.execute("PING")


async def test_closing_fails_calls_in_flight(any_broker: Broker) -> None:
    connection = MultiplexedConnection(any_broker.url, block_s=BLOCK_S)
    await connection.execute("PING")
    waiting = asyncio.create_task(connection.execute("BLPOP", "nothing", 1))
    await asyncio.sleep(0.01)
    connection.close()
    with pytest.raises(BrokerUnavailable, match="the connection was closed"):
        await waiting


async def _until_blocked(broker: Broker, blocked: bool) -> None:
    async with asyncio.timeout(5):
        while bool(broker.sync.info("clients")["blocked_clients"]) != blocked:
            await asyncio.sleep(0.01)


async def _only_connection(connection: MultiplexedConnection) -> bytes:
    """Return Redis's description of the only connection with our name. Those of earlier tests may still be closing."""
    async with asyncio.timeout(10):
        while True:
            listed: bytes = await connection.execute("CLIENT", "LIST")
            named = [line for line in listed.splitlines() if b" name=smartbatch " in line]
            if len(named) == 1:
                return named[0]
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _server(
    serve: Serve, timeout_s: float = 0.3, tls_folder: Path | None = None
) -> AsyncIterator[MultiplexedConnection]:
    """Connect to a server that accepts the login and then runs `serve`; over TLS if there is a folder for its
    certificate."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"smartbatch\r\n")  # CLIENT SETNAME
        writer.write(b"+OK\r\n")
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            ended.set()

    ended = asyncio.Event()
    context, scheme, options = None, "redis", ""
    if tls_folder:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tls_folder / "ca.pem")
        context, scheme, options = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), "rediss", "?ssl_ca_certs="
        authority.issue_cert("127.0.0.1").configure_cert(context)
        options += str(tls_folder / "ca.pem")
    listener = socket.create_server(("127.0.0.1", 0))
    # By itself the kernel takes up to 6 MB that nobody has read.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
    server = await asyncio.start_server(handle, sock=listener, ssl=context)
    port = listener.getsockname()[1]
    connection = MultiplexedConnection(f"{scheme}://127.0.0.1:{port}/0{options}")
    connection._timeout_s = timeout_s
    try:
        yield connection
    finally:
        connection.close()
        await ended.wait()
        server.close()
        await server.wait_closed()
