"""Malformed HTTP over raw sockets: the gateway keeps serving others and its memory stays flat."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import httpx
import psutil
import pytest

from smartbatch.gateway.server import bind
from smartbatch.shared.errors import StartupError
from smartbatch.shared.settings import Settings
from smartbatch.worker.models.simulated import expected
from tests.brokers import Broker, eventually
from tests.system.stack import Stack

POST = b"POST /predict HTTP/1.1\r\nhost: x\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
UPGRADE = POST + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
INFER = b"/v2/models/simulated/infer"
MB = 1_000_000
# For tests with processes of their own: the worker of `system` is on the same broker.
OTHER = {"MODEL_NAME": "other"}


@pytest.fixture(scope="module")
def system(valkey_server: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One gateway with one worker for all attacks, so that a later test finds what an earlier one left behind."""
    valkey_server.sync.flushall()
    stack = Stack(valkey_server, tmp_path_factory.mktemp("bad-http"), MODEL_PATH="simulated:base_ms=1,row_ms=0")
    yield stack.up()
    stack.close()


def connect(system: Stack) -> socket.socket:
    host, port = system.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), 20)


def exchange(system: Stack, data: bytes) -> bytes:
    """Send as much as the server accepts and return all bytes until the server closes."""
    with connect(system) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def statuses(response: bytes) -> list[int]:
    return [int(part[:3]) for part in response.split(b"HTTP/1.1 ")[1:]]


@contextlib.contextmanager
def unharmed(system: Stack, grows_mb: float = 50, *, check_health: bool = True) -> Iterator[None]:
    """Meanwhile /healthz answers within 0.2 s (if `check_health`) and the gateway grows by little; afterwards it
    predicts, and its log holds neither a traceback nor a warning."""
    gateway = system.processes[0]
    process = psutil.Process(gateway.pid)
    before = process.memory_info().rss
    largest, took, over = before, [], threading.Event()

    def probe() -> None:
        nonlocal largest
        with httpx.Client(timeout=10) as client:
            while not over.is_set() or len(took) < 5:
                begun_at = time.monotonic()
                assert not check_health or client.get(f"{system.url}/healthz").status_code == 200
                took.append(time.monotonic() - begun_at)
                largest = max(largest, process.memory_info().rss)
                over.wait(0.02)

    with ThreadPoolExecutor(1) as pool:
        probing = pool.submit(probe)
        try:
            yield
        finally:
            over.set()
        probing.result()
    assert sorted(took)[int(len(took) * 0.9)] < 0.2  # the machine of the tests may have something else to do once
    assert largest - before < grows_mb * MB
    assert system.predict(b"x").status_code == 200
    log = gateway.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"\x00\x01\x02 garbage\r\n\r\n", [400], id="garbage"),
        pytest.param(bytes.fromhex("16030100c8010000c40303") + bytes(200), [400], id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400], id="HTTP/2"),
        pytest.param(b"GET /healthz HTTP/1.1\r\n\r\n", [400], id="no Host"),
        pytest.param(HEALTH[:-2] + b"Host: x\r\n\r\n", [400], id="two Hosts"),
        pytest.param(POST + b"host: y\r\ncontent-length: 1\r\n\r\na", [400], id="two Hosts that differ"),
        pytest.param(b"POST /predict HTTP/1.1\r\ncontent-length: 1\r\n\r\na", [400], id="a body without a Host"),
        pytest.param(b"GET /healthz HTTP/1.0\r\nhost: x\r\nhost: x\r\n\r\n", [400], id="two Hosts in HTTP/1.0"),
        pytest.param(HEALTH + b"GET /healthz HTTP/1.1\r\n\r\n", [200, 400], id="no Host in the second"),
        pytest.param(b"GET /\r\n\r\n", [400], id="HTTP/0.9"),
        pytest.param(b"GET /healthz\r\nhost: x\r\n\r\n", [400], id="no version"),
        pytest.param(b"GET /healthz HTTP/2.0\r\nhost: x\r\n\r\n", [400], id="a later version"),
        pytest.param(b"CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n", [400], id="CONNECT"),
        pytest.param(HEALTH + b"\x00\x00", [200, 400], id="garbage behind a request"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", [400], id="a path that is not ASCII"),
        pytest.param(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", [414], id="a long URL"),
        pytest.param(b"GET /" + b"a" * 20 * MB, [414], id="an endless URL"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 70_000 + b"\r\n\r\n", [431], id="a large header"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 20 * MB, [431], id="an endless header"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 3 * MB, [431], id="endless headers"),
        pytest.param(b"\r\n" * 10 * MB, [431], id="endless lines before a request"),
        pytest.param(POST + b"content-length: -1\r\n\r\n", [400], id="a negative length"),
        pytest.param(POST + b"content-length: 1e3\r\n\r\n", [400], id="a length that is none"),
        pytest.param(POST + b"content-length: " + b"9" * 30 + b"\r\n\r\n", [400], id="a length past all numbers"),
        pytest.param(POST + b"content-length: 99999999999\r\n\r\n" + b"x" * 30 * MB, [413], id="a body too large"),
        pytest.param(POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd", [400], id="two lengths"),
        pytest.param(
            POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", [400], id="length and chunks"
        ),
        pytest.param(POST + b"content-length: 1\r\n\r\na!!", [200, 400], id="more than the length"),
        pytest.param(CHUNKED + b"zz\r\nabc", [400], id="a chunk without a size"),
        pytest.param(CHUNKED + b"3\r\nabcde\r\n0\r\n\r\n", [400], id="a chunk larger than its size"),
        pytest.param(CHUNKED + b"f" * 20 + b"\r\n", [400], id="a chunk past all numbers"),
        pytest.param(CHUNKED + b"3;" + b"x" * 20 * MB, [431], id="an endless chunk extension"),
        pytest.param(CHUNKED + b"1\r\na\r\n0\r\na: " + b"b" * 20 * MB, [431], id="an endless trailer"),
        pytest.param(CHUNKED + b"100000\r\n" + bytes(2**20) * 20, [400], id="a chunk without its end"),
        pytest.param(CHUNKED + (b"100000\r\n" + bytes(2**20) + b"\r\n") * 20, [413], id="chunks without end"),
        pytest.param(HEALTH * 10_000, [200] * 65, id="more requests than are taken at once"),
    ],
)
def test_invalid_http_gets_an_error_and_the_connection_is_closed(
    system: Stack, data: bytes, expected: list[int]
) -> None:
    with unharmed(system):
        response = exchange(system, data)
    assert statuses(response) == expected
    last = response[response.rindex(b"HTTP/1.1 ") :]
    assert b"\r\nconnection: close\r\n" in last
    assert b"\r\nx-content-type-options: nosniff\r\n" in last
    if expected[-1] >= 400:
        assert b"\r\ncontent-type: application/problem+json\r\n" in last


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"GET http://other:80/healthz?a HTTP/1.1\r\nhost: x\r\n\r\n", 200, id="an absolute target"),
        pytest.param(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n", 200, id="HEAD"),
        pytest.param(b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", 404, id="OPTIONS of the server"),
        pytest.param(b"OPTIONS /predict HTTP/1.1\r\nhost: x\r\n\r\n", 405, id="OPTIONS"),
        pytest.param(b"GET /predict HTTP/1.1\r\nhost: x\r\n\r\n", 405, id="GET"),
        pytest.param(b"HEAD /predict HTTP/1.1\r\nhost: x\r\n\r\n", 405, id="HEAD of what is POST only"),
        pytest.param(b"POST /predict/ HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\na", 404, id="a slash at the end"),
        pytest.param(b"GET /%00%ff/../ HTTP/1.1\r\nhost: x\r\n\r\n", 404, id="a path of odd bytes"),
        pytest.param(b"\r\n" + HEALTH, 200, id="an empty line before it"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHOST:\r\n\r\n", 200, id="an empty Host"),
        pytest.param(CHUNKED + b"1\r\na\r\n1;x=y\r\nb\r\n0\r\na: b\r\n\r\n", 200, id="chunks with all that may be"),
        pytest.param(POST + b"expect: 100-continue\r\ncontent-length: 1\r\n\r\na", 100, id="Expect"),
        pytest.param(UPGRADE + b"content-length: 5\r\n\r\nhello", 200, id="an upgrade with a body"),
        pytest.param(UPGRADE + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 200, id="one with chunks"),
        pytest.param(HEALTH[:-2] + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n", 200, id="one without a body"),
    ],
)
def test_unusual_but_valid_http_is_served_and_the_connection_stays_open(
    system: Stack, data: bytes, expected: int
) -> None:
    response = exchange(system, data + LAST)
    assert statuses(response) == ([100, 200, 200] if expected == 100 else [expected, 200])
    if expected == 405:
        assert b"\r\nallow: POST\r\n" in response


def test_upgrade_request_sent_byte_by_byte_is_served(system: Stack) -> None:
    with connect(system) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in UPGRADE + b"content-length: 5\r\n\r\nhello" + LAST:
            client.send(bytes([byte]))
        assert statuses(read_all(client)) == [200, 200]


def test_http_1_0_is_answered_and_closed(system: Stack) -> None:
    response = exchange(system, b"POST /predict HTTP/1.0\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\nab")
    assert statuses(response) == [200]
    assert b"transfer-encoding" not in response


@pytest.mark.extended
def test_slow_clients_are_disconnected(system: Stack) -> None:
    heads = [b"GET /healthz HTTP/1.1\r\na: ", POST]
    bodies = [POST + b"content-length: 200000\r\n\r\n" + b"x" * 20_000, CHUNKED + b"4e20\r\n" + b"x" * 20_000 + b"\r\n"]
    with unharmed(system, grows_mb=60), contextlib.ExitStack() as open_sockets:
        clients = [open_sockets.enter_context(connect(system)) for _ in range(300)]
        begun_at = time.monotonic()
        for number, client in enumerate(clients):
            client.sendall([*heads, *bodies, b""][number % 5])
        dripping = True
        while dripping and time.monotonic() - begun_at < 20:
            dripping = False
            for number, client in enumerate(clients):
                if number % 5 < 2:
                    with contextlib.suppress(ConnectionError):
                        client.send(b"x")
                        dripping = True
            time.sleep(1)
        responses = [statuses(read_all(client)) for client in clients]
        assert time.monotonic() - begun_at < 30
    assert responses == [[408], [408], [408], [408], []] * 60


def test_idle_connections_are_evicted_for_new_ones(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=1,row_ms=0", MAX_CONNECTIONS=50, **OTHER)
    system.up()
    # No probe runs meanwhile: its connection, too, is idle until its first byte and may be closed for the next.
    with unharmed(system, check_health=False), contextlib.ExitStack() as open_sockets:
        for number in range(500):
            open_sockets.enter_context(connect(system))
            if number % 50 == 49:
                assert statuses(exchange(system, LAST)) == [200]
    text = system.client.get(f"{system.url}/metrics").text
    assert 'smartbatch_http_connections_closed_total{reason="too_many_connections"} 0.0' in text


def test_total_memory_of_bodies_being_received_is_limited(stack: Callable[..., Stack]) -> None:
    system = stack(
        MODEL_PATH="simulated:base_ms=1,row_ms=0",
        REQUEST_TIMEOUT=3,
        MAX_BODY_BYTES=2 * MB,
        MAX_RECEIVING_BYTES=5 * MB,
        **OTHER,
    )
    system.up()
    with unharmed(system), contextlib.ExitStack() as open_sockets:
        clients = [open_sockets.enter_context(connect(system)) for _ in range(10)]
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.sendall(POST + b"content-length: 2000000\r\n\r\n" + bytes(1_900_000))
        with ThreadPoolExecutor(10) as pool:  # those that were taken run into REQUEST_TIMEOUT
            responses = list(pool.map(read_all, clients))
    assert {status for response in responses for status in statuses(response)} <= {408, 503}
    rejected = [response for response in responses if statuses(response) == [503]]
    assert len(rejected) >= 7
    assert all(b"receiving_full" in response and b"retry-after: 1" in response for response in rejected)


def test_drain_does_not_wait_for_incomplete_requests(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated:base_ms=700,row_ms=0", **OTHER)
    gateway, _ = system.up().processes
    with connect(system) as head, connect(system) as body, connect(system) as idle, connect(system) as whole:
        head.sendall(b"POST /predict HTT")
        body.sendall(POST + b"content-length: 100\r\n\r\nabc")
        idle.sendall(HEALTH)
        whole.sendall(POST + b"content-length: 1\r\n\r\na")
        eventually(lambda: system.running("other") == 1)
        begun_at = time.monotonic()
        gateway.popen.send_signal(signal.SIGTERM)
        assert [statuses(read_all(client)) for client in (head, body, idle, whole)] == [[503], [503], [200], [200]]
        assert gateway.popen.wait(10) == 0
    assert time.monotonic() - begun_at < 15  # GRACE_TIME is 30
    assert "Traceback" not in gateway.log.read_text()


def test_requests_that_outlive_the_grace_time_get_a_response(stack: Callable[..., Stack]) -> None:
    system = stack(MODEL_PATH="simulated", GRACE_TIME=2, **OTHER)
    gateway = system.gateway()
    with connect(system) as client:
        client.sendall((POST + b"content-length: 1\r\n\r\na") * 2)  # there is no worker
        eventually(lambda: system.broker.sync.xlen("smartbatch:{other}:requests") == 1)
        gateway.popen.send_signal(signal.SIGTERM)
        response = read_all(client)
    assert statuses(response) == [503, 503]
    assert b"GRACE_TIME" in response
    assert gateway.popen.wait(10) == 0
    assert "Traceback" not in gateway.log.read_text()


def test_second_gateway_on_a_port_reports_it() -> None:
    with bind(Settings(port=0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(StartupError, match=rf"^can't listen on 127.0.0.1:{port}: Address already in use"):
            bind(Settings(port=port))


@pytest.mark.parametrize("seed", range(3))
def test_each_request_gets_its_own_response_however_its_bytes_are_split(system: Stack, seed: int) -> None:
    """Heads that repeat and change, split across reads or not, rejected before they are complete or not, several in
    one read, some too large for the event loop."""
    chance = random.Random(seed)
    with connect(system) as client, client.makefile("rb") as responses:
        for _ in range(150):
            requests, sent = [], b""
            for _ in range(chance.choice((1, 1, 1, 2, 3))):
                target = chance.choice((b"/predict", b"/predict", INFER, b"/predict?top_k=many"))
                large = (131_000, 140_000) if b"?" not in target else ()  # the rest of a body rejected early isn't read
                content = body = chance.randbytes(chance.choice((0, 1, 7, 70, 70, 70, *large)))
                if target == INFER:
                    content = body.hex().encode()
                    tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "data": [body.hex()]}
                    body = json.dumps({"inputs": [tensor]}).encode()
                requests.append((target, content))
                sent += b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (target, len(body), body)
            head_bytes = sent.index(b"\r\n\r\n") + 4
            cuts = [
                0,
                *sorted(chance.choices((head_bytes, chance.randrange(len(sent))), k=chance.choice((0, 1)))),
                None,
            ]
            for start, end in itertools.pairwise(cuts):
                client.sendall(sent[start:end])
                if end is not None:
                    time.sleep(chance.choice((0.0, 0.002)))  # so that it is read, and perhaps answered, by itself
            for target, content in requests:
                status, response = read_one(responses)
                if target == b"/predict":
                    assert (status, response["outputs"]["output"]["data"]) == (200, [expected(content)])
                elif target == INFER:
                    assert (status, response["outputs"][0]["data"]) == (200, expected(content))
                else:
                    assert (status, response["code"], "request_id" in response) == (400, "bad_request", True)


def test_unread_body_of_a_rejected_request_is_not_parsed_as_the_next(system: Stack) -> None:
    head = b"POST /predict?top_k=many HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n"
    with connect(system) as client, client.makefile("rb") as responses:
        for _ in range(4):
            for sent in (head, b"x" + head + b"x"):
                client.sendall(sent)
                status, response = read_one(responses)
                assert (status, response["code"], "request_id" in response) == (400, "bad_request", True)


def read_one(responses: BinaryIO) -> tuple[int, dict[str, Any]]:
    """Read one of several responses on a connection."""
    status = int(responses.readline().split()[1])
    length = 0
    while (line := responses.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    return status, json.loads(responses.read(length))
