"""Connections on a real uvicorn in this process, with a small application and short timeouts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable

import pytest
import uvicorn

from smartbatch.gateway.http import connection as connections
from smartbatch.gateway.http import connection_registry as registry
from smartbatch.gateway.http import timeouts
from smartbatch.gateway.http.connection import Connection
from smartbatch.gateway.http.connection_registry import ConnectionRegistry

HELLO = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nhost: x\r\n"


class Site:
    """`/echo` responds with the body, `/wait` once `go` is set, `/large` with 64 MB, other paths with their path."""

    def __init__(self, server: uvicorn.Server, port: int) -> None:
        self.server, self.port = server, port
        self.go = asyncio.Event()
        self.counted: list[str] = []
        self.faults: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        body = scope["path"].encode()
        if body == b"/echo":
            body, more = b"", True
            try:
                while more:
                    message = await receive()
                    body, more = body + message["body"], message["more_body"]
            except Exception as error:
                self.faults.append(type(error).__name__)
                body = type(error).__name__.encode()
        elif body == b"/wait":
            await self.go.wait()
        elif body == b"/large":
            body = bytes(64_000_000)
        elif body == b"/headers":
            await asyncio.sleep(0.05)
            body = json.dumps([name.decode() for name, _ in scope["headers"]]).encode()
        elif body == b"/broken":
            raise ValueError("secret")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    async def ask(self, data: bytes) -> bytes:
        """Send bytes and return all bytes until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        with contextlib.closing(writer):
            writer.write(data)
            return await asyncio.wait_for(reader.read(), 5)


Start = Callable[..., contextlib.AbstractAsyncContextManager[Site]]


@contextlib.asynccontextmanager
async def site(most: int = 100, grace_s: float = 5.0) -> AsyncIterator[Site]:
    made: list[Site] = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            connection_registry = ConnectionRegistry(
                most, grace_s, lambda reason: made[0].counted.append(reason), lambda error: None
            )
            scope["state"]["connection_registry"] = connection_registry
            looking = asyncio.create_task(connection_registry.run())
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            looking.cancel()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await made[0](scope, receive, send)

    config = uvicorn.Config(app, port=0, http=Connection, ws="none", loop="uvloop", lifespan="on", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    made.append(Site(server, port))
    try:
        yield made[0]
    finally:
        made[0].go.set()
        server.should_exit = True
        await asyncio.wait_for(serving, 10)


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "CHECK_INTERVAL_S", 0.05)
    monkeypatch.setattr(timeouts, "HEAD_TIMEOUT_S", 0.3)
    monkeypatch.setattr(timeouts, "WRITE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(connections, "LINGER_S", 0.3)


def statuses(response: bytes) -> list[int]:
    return [int(part[:3]) for part in response.split(b"HTTP/1.1 ")[1:]]


async def test_an_incomplete_head_gets_a_408():
    async with site() as server:
        assert statuses(await server.ask(b"GET / HTTP/1.1\r\na: b")) == [408]
        assert statuses(await server.ask(HELLO + b"GET / HTTP/1.1\r\na: b")) == [200, 408]
        assert statuses(await server.ask(b"GET /\r\n")) == [408]  # HTTP/0.9 has no headers
        assert server.counted == ["head_timeout"] * 3


async def test_a_silent_connection_is_closed_without_a_response():
    async with site() as server:
        assert await server.ask(b"") == b""


async def test_an_idle_connection_outlives_the_head_timeout_and_is_then_closed(monkeypatch):
    monkeypatch.setattr(timeouts, "KEEP_ALIVE_S", 1.0)
    async with site() as server:
        begun_at = time.monotonic()
        assert statuses(await server.ask(HELLO)) == [200]
        assert 0.9 < time.monotonic() - begun_at < 20
        assert server.counted == []


async def test_a_client_that_reads_nothing_is_disconnected():
    async with site() as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
        writer.write(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        while "write_timeout" not in server.counted:
            await asyncio.sleep(0.01)
        writer.transport.abort()


async def test_an_idle_connection_makes_room_for_a_new_one():
    async with site(most=3) as server:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HELLO)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        with contextlib.suppress(ConnectionResetError):  # the oldest was evicted
            assert await asyncio.wait_for(idle[0][0].read(), 5) == b""
        assert server.counted[0] == "idle"
        for _, each in [*idle, (reader, writer)]:
            each.transport.abort()


async def test_when_all_connections_are_busy_a_new_one_gets_retry_after():
    async with site(most=3) as server:
        waiting = [
            asyncio.create_task(server.ask(b"GET /wait HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
            for _ in range(3)
        ]
        while len(server.server.server_state.tasks) < 3:
            await asyncio.sleep(0.01)
        rejected = await server.ask(b"")
        assert statuses(rejected) == [503]
        assert b"retry-after: 1\r\n" in rejected
        server.go.set()
        assert [statuses(await each) for each in waiting] == [[200]] * 3


@pytest.mark.parametrize(
    ("request_head", "detail"),
    [
        pytest.param(b"GET /hello HTTP/1.1\r\naccept: */*", "the Host header is missing", id="no Host"),
        pytest.param(
            HELLO[:-4] + b"\r\nHost: x", "the request has 2 Host headers; only one is allowed", id="two Hosts"
        ),
        pytest.param(
            b"GET /hello HTTP/1.0\r\nhost: x\r\nhost: x",
            "the request has 2 Host headers; only one is allowed",
            id="in HTTP/1.0",
        ),
        pytest.param(b"GET /hello", "HTTP version 0.9 is not supported; 1.1 and 1.0 are", id="HTTP/0.9"),
        pytest.param(
            b"GET /hello HTTP/2.0\r\nhost: x", "HTTP version 2.0 is not supported; 1.1 and 1.0 are", id="HTTP/2.0"
        ),
    ],
)
async def test_a_head_without_version_or_with_other_than_one_host_is_rejected(request_head: bytes, detail: str):
    async with site() as server:
        response = await server.ask(request_head + b"\r\n\r\n")
        second = await server.ask(HELLO + request_head + b"\r\n\r\n" + HELLO)
        assert server.counted == ["malformed_request"] * 2
    head, _, content = response.partition(b"\r\n\r\n")
    assert statuses(response) == [400]
    assert b"connection: close" in head
    assert json.loads(content)["detail"] == detail
    assert statuses(second) == [200, 400]


async def test_http_1_0_needs_no_host():
    async with site() as server:
        assert statuses(await server.ask(b"GET /hello HTTP/1.0\r\n\r\n")) == [200]


async def test_trailers_do_not_become_headers():
    request = b"POST /headers HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    async with site() as server:
        response = await server.ask(request + b"1\r\na\r\n0\r\nx-request-timeout: 9\r\n\r\n")
    assert response.endswith(b'["host", "connection", "transfer-encoding"]')


async def test_pipelined_requests_get_responses_in_order_up_to_a_limit():
    requests = b"".join(b"GET /%03d HTTP/1.1\r\nhost: x\r\n\r\n" % n for n in range(200))
    async with site() as server:
        response = await server.ask(requests)
    bodies = [part[-4:] for part in response.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"/%03d" % n for n in range(65)]
    assert response.count(b"connection: close") == 1


async def test_an_application_error_becomes_a_problem_without_details(caplog):
    async with site() as server:
        response = await server.ask(b"GET /broken HTTP/1.1\r\nhost: x\r\n\r\n")
    assert statuses(response) == [500]
    assert b"application/problem+json" in response
    assert b"secret" not in response
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("rest", "closes"),
    [
        (b"content-length: 100\r\n\r\n", False),
        (b"content-length: 70000\r\n\r\n", True),
        (b"expect: 100-continue\r\ncontent-length: 9\r\n\r\n", True),
        (b"transfer-encoding: chunked\r\n\r\n", True),
    ],
)
async def test_an_early_response_closes_only_if_much_of_the_body_is_missing(rest: bytes, closes: bool):
    async with site() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /hello HTTP/1.1\r\nhost: x\r\n" + rest)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(6)
        assert (b"connection: close" in head) == closes
        if not closes:
            writer.write(bytes(100) + HELLO)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.transport.abort()


async def test_a_drain_cuts_incomplete_requests_and_completes_the_others():
    async with site() as server:
        half = asyncio.create_task(server.ask(POST + b"content-length: 9\r\n\r\nab"))
        head = asyncio.create_task(server.ask(HELLO + b"GET /hel"))
        complete = asyncio.create_task(server.ask(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n" + HELLO))
        while server.server.server_state.total_requests < 1 or len(server.server.server_state.tasks) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        begun_at = time.monotonic()
        server.server.should_exit = True
        assert b"Draining" in await half
        await head
        assert 0.8 < time.monotonic() - begun_at < 20
        server.go.set()
        response = await complete
        assert statuses(response) == [200, 200]
        assert response.count(b"connection: close") == 1
