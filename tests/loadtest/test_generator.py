"""The load generator: every request is counted once, whatever its outcome, and timed from its intended start."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import msgspec
import pytest

from loadtest.generator import split
from loadtest.generator.connection import Connection, request_bytes
from loadtest.generator.counters import Counters, totals
from loadtest.generator.histogram import bucket, merged, percentile_ms
from loadtest.generator.loops import ClosedLoop, LoadLoop, OpenLoop, poisson
from loadtest.generator.process import Load, LoadSpec
from loadtest.generator.run import PERCENTILES, run_closed_loop, run_open_loop
from loadtest.generator.trace import Trace
from loadtest.workload.bodies import Body
from smartbatch.deploy.ports import free_port

OK = b'{"values": ["right"]}'
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
REJECTION = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
Respond = Callable[[int], bytes | None]


def response(status: int = 200, content: bytes = OK, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}", *headers, "", ""]
    return "\r\n".join(head).encode() + content


# --- counters, on a server in an event loop; the generator runs in a thread


@contextlib.asynccontextmanager
async def served(handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """Run a server on a free port and yield the port. Close its connections afterwards."""
    open_here: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_here.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await handle(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        open_here.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    async with asyncio.timeout(20):
        for _ in range(10):  # a connection that is accepted just as the server closes would stay open
            await asyncio.sleep(0.01)
            while open_here:
                await asyncio.sleep(0.01)
    server.close()


async def run_until(loop: LoadLoop, finished: Callable[[], bool], timeout_s: float | None = None) -> None:
    """Run a loop in a thread until `finished()`, calling `expire(timeout_s)` repeatedly."""

    def run() -> None:
        while not finished():
            assert loop.now() < 20
            loop.run(loop.now() + 0.01)
            if timeout_s is not None:
                loop.expire(timeout_s)

    await asyncio.to_thread(run)


async def counted(kind: str, amount: float, respond: Respond, *, until: int) -> tuple[dict, int, list[float]]:
    """Load a server until it has received `until` requests. It sends `respond(n)` to request n, or hangs up if None.

    Return the counts, the number of requests received, and how long each request without a response has waited.
    """
    received = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        while await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(1)
            number, received = received, received + 1
            text = respond(number)
            if text is None:
                break
            writer.write(text)

    async with served(handle) as port:
        counters, requests = Counters([["right"]], check_every=1), [request_bytes(port, b"x")]
        loop: LoadLoop
        if kind == "closed":
            loop = ClosedLoop(port, requests, counters, int(amount))
        else:
            loop = OpenLoop(port, requests, counters, poisson(amount))
        await run_until(loop, lambda: received >= until)
        ages = [loop.now() - start for start in loop.in_flight()]
        counts = counters.read_and_reset()
        loop.close()
    assert counts["sent"] == counts["ok"] + counts["rejected"] + sum(counts["errors"].values()) + len(ages)
    return counts, received, ages


@pytest.mark.parametrize(("kind", "amount"), [("closed", 4), ("open", 300)])
async def test_correct_responses_rejections_errors_and_wrong_responses_are_counted_separately(
    kind: str, amount: float
) -> None:
    kinds = [
        response(),
        response(503, b"{}", "Retry-After: 0"),
        response(503, b"{}"),
        response(500, b"{}"),
        response(200, b'{"values": ["another\'s"]}'),
        None,
    ]
    counts, _, _ = await counted(kind, amount, lambda number: kinds[number % 6], until=240)
    assert counts["ok"] > 10 and counts["rejected"] > 10
    assert set(counts["errors"]) == {"503", "500", "wrong response", "no response"}
    assert counts["wrong"] == counts["errors"]["wrong response"] > 10
    assert counts["checked"] == counts["ok"] + counts["wrong"]
    assert sum(counts["latency"].values()) == counts["ok"]
    assert sum(counts["late"].values()) == (0 if kind == "closed" else counts["sent"])


async def test_a_closed_loop_has_as_many_requests_in_flight_as_users() -> None:
    _, _, ages = await counted("closed", 7, lambda number: response(), until=100)
    assert len(ages) == 7


async def test_an_open_loop_does_not_wait_for_responses() -> None:
    counts, received, ages = await counted("open", 500, lambda number: b"", until=40)  # sends no response
    assert counts["ok"] == 0
    assert len(ages) >= received >= 40
    assert max(ages) > 0


async def test_a_rejected_user_of_a_closed_loop_retries_after_retry_after() -> None:
    arrived: list[float] = []

    def reject(number: int) -> bytes:
        arrived.append(time.monotonic())
        return response(503, b"{}", "Retry-After: 1")

    await counted("closed", 1, reject, until=2)
    assert arrived[1] - arrived[0] >= 0.99
    seconds = Counters([None], 1).ended(_ended(response(503, b"{}", "Retry-After: 3600")), 0.0, 0.0)
    assert seconds == 30.0  # the maximum


def _ended(text: bytes) -> Connection:
    with socket.socket() as sock:
        connection = Connection(sock)
        assert connection.receive(text)
        return connection


async def test_an_unreachable_server_is_an_error_and_no_crash() -> None:
    counters = Counters([None], 1)
    loop = ClosedLoop(1, [b""], counters, 2)
    await run_until(loop, lambda: counters.errors["no connection"] >= 4)
    assert counters.sent == counters.errors.total()
    loop.close()


@pytest.mark.parametrize("kind", ["closed", "open"])
async def test_a_request_without_a_response_expires(kind: str) -> None:
    hung_up = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1000):
                pass
        finally:
            hung_up.set()

    async with served(never) as port:
        counters = Counters([None], 1)
        requests = [request_bytes(port, b"x")]
        if kind == "closed":
            loop: LoadLoop = ClosedLoop(port, requests, counters, 1)
        else:  # two of them wait for the only connection
            loop = OpenLoop(port, requests, counters, iter([0.0, 0.0, 0.0]), connections=1)
        await run_until(loop, lambda: counters.errors["no response"] >= (1 if kind == "closed" else 3), timeout_s=0.0)
        assert kind == "closed" or loop.done
        loop.close()
        await asyncio.wait_for(hung_up.wait(), 10)


# --- traces, on plain sockets


@contextlib.contextmanager
def served_by(serve: Callable[[socket.socket], None], *, after_s: float = 0.0) -> Iterator[int]:
    """Have a thread listen `after_s` from now and call `serve` with its socket. Yield the port."""
    port = free_port()
    listening = threading.Event()

    def listen() -> None:
        time.sleep(after_s)
        with socket.create_server(("127.0.0.1", port)) as server:
            listening.set()
            serve(server)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    if not after_s:
        assert listening.wait(10)
    yield port
    thread.join(10)
    assert not thread.is_alive()


def respond_to_all(server: socket.socket) -> None:
    """Accept a connection and respond to everything received on it."""
    peer, _ = server.accept()
    with peer:
        while peer.recv(65536):
            peer.sendall(RESPONSE)


def test_a_stall_counts_for_every_request_due_meanwhile() -> None:
    def stall(server: socket.socket) -> None:
        peer, _ = server.accept()
        with peer:
            peer.recv(65536)
            time.sleep(0.5)
            peer.sendall(RESPONSE)
            while peer.recv(65536):
                peer.sendall(RESPONSE)

    with served_by(stall) as port:
        begin = time.perf_counter()
        trace = run_open_loop(port, request_bytes(port, b"x"), [0.0, 0.1, 0.2, 0.3, 0.4], connections=1)
        took = time.perf_counter() - begin
    assert trace.statuses() == {"200": 5}
    assert [start for start, *_ in trace.lines] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert all(0.49 <= end <= took for _, _, end, _ in trace.lines)  # no response before the stall is over
    latencies = sorted(end - start for start, _, end, _ in trace.lines)
    assert trace.latencies(200) == latencies and latencies[-1] >= 0.49
    assert trace.lateness()[-1] >= 0.39  # four of them waited for the only connection


def test_a_broken_connection_is_counted() -> None:
    def hang_up(server: socket.socket) -> None:
        for _ in range(3):
            peer, _ = server.accept()
            peer.recv(65536)
            peer.close()

    with served_by(hang_up) as port:
        trace = run_open_loop(port, request_bytes(port, b"x"), [0.0, 0.05, 0.1], connections=3)
    assert trace.statuses() == {"0": 3}
    assert trace.latencies(200) == []


def test_request_and_response_may_be_sent_in_pieces() -> None:
    body = b"x" * 8_000_000  # more than the kernel buffers

    def receive_all_and_respond_slowly(server: socket.socket) -> None:
        peer, _ = server.accept()
        with peer:
            left = len(request)
            while left and (data := peer.recv(65536)):
                left -= len(data)
            for piece in (RESPONSE[:5], RESPONSE[5:30], RESPONSE[30:-1], RESPONSE[-1:]):
                peer.sendall(piece)
                time.sleep(0.02)

    with served_by(receive_all_and_respond_slowly) as port:
        request = request_bytes(port, body)
        trace = run_open_loop(port, request, [0.0], connections=1)
    assert trace.statuses() == {"200": 1}
    assert trace.latencies(200)[0] >= 0.06


def test_requests_wait_until_the_server_listens() -> None:
    with served_by(respond_to_all, after_s=0.3) as port:
        trace = run_open_loop(port, request_bytes(port, b"x"), [0.0, 0.1], connections=1)
    assert trace.statuses() == {"200": 2}


def test_data_on_an_idle_connection_is_not_a_response() -> None:
    def send_before_any_request(server: socket.socket) -> None:
        peer, _ = server.accept()
        with peer:
            peer.sendall(REJECTION)
            respond_to_all(server)

    with served_by(send_before_any_request) as port:
        trace = run_open_loop(port, request_bytes(port, b"x"), [0.2, 0.3], connections=1)
    assert trace.statuses() == {"200": 2}


def test_a_trace_may_be_cut_and_its_statuses_add_up() -> None:
    trace = Trace([0.0, 1.0, 2.0], [(0.0, 0.0, 0.5, 200), (1.0, 1.0, 1.1, 503)])
    assert trace.statuses() == {"200": 1, "503": 1, "none": 1}
    assert trace.since(1.0).statuses() == {"503": 1, "none": 1}
    assert trace.latencies() == [pytest.approx(0.1), 0.5] and trace.latencies(200) == [0.5]


def test_arrivals_are_reproducible_and_match_the_rate() -> None:
    starts = list(poisson(1000, 10))
    assert starts == list(poisson(1000, 10))
    assert starts == sorted(starts) and starts[0] > 0 and starts[-1] < 10
    assert 9_700 < len(starts) < 10_300  # three standard deviations


@pytest.mark.parametrize("wrk", [True, False])
async def test_a_closed_loop_has_a_summary_with_and_without_wrk(wrk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not wrk:
        monkeypatch.setattr("shutil.which", lambda name: None)
    statuses = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            assert await reader.readexactly(1) == b"x"
            statuses.append(500 if len(statuses) % 4 == 0 else 200)
            writer.write(response(statuses[-1]))

    async with served(handle) as port:
        result = await asyncio.to_thread(run_closed_loop, port, b"x", 4, 1.0)
    assert 0 <= len(statuses) - result["requests"] <= 4  # in flight at the end
    assert abs(result["errors"] - result["requests"] / 4) <= 4
    assert result["requests_per_s"] == pytest.approx((result["requests"] - result["errors"]) / result["seconds"], 0.01)
    assert len(result["latency_ms"]) == len(PERCENTILES) and result["latency_ms"] == sorted(result["latency_ms"])
    assert result["p50_ms"] <= result["p99_ms"] and result["generator_cpu_s_per_1000"] > 0


async def test_a_load_of_several_processes_is_that_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "MOST", 2)
    monkeypatch.setattr(split, "CONNECTIONS_EACH", 2)
    connections: set[int] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(id(writer))
        while await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(1)
            writer.write(response())

    starts = [0.01 * number for number in range(50)]
    async with served(handle) as port:
        closed = split.Part(port, request_bytes(port, b"x"), 5, None, 0.5)
        lines = await asyncio.to_thread(split.run_split, closed)
        assert len(connections) == 5 and len(lines) > 5
        trace = await asyncio.to_thread(run_open_loop, port, request_bytes(port, b"x"), starts, 4)
    assert trace.statuses() == {"200": 50}
    assert sorted(start for start, *_ in trace.lines) == pytest.approx(starts)
    assert trace.latencies(200)[-1] < 0.5  # all processes began together


# --- figures


def test_percentiles_are_accurate_within_one_percent() -> None:
    histogram = Counter(bucket(float(ms)) for ms in range(1, 1001))
    for percent in (1, 50, 95, 99, 100):
        assert percentile_ms(histogram, percent) == pytest.approx(percent * 10, rel=0.01)
    assert percentile_ms(Counter(), 50) is None
    assert bucket(0.0) == bucket(-1.0)


def test_histograms_can_be_added_up() -> None:
    assert merged([{"3": 1, "-4": 2}, {}, {"3": 5}]) == {3: 6, -4: 2}


def test_totals_include_requests_without_a_response_on_demand() -> None:
    second = {"sent": 20, "ok": 10, "rejected": 1, "checked": 2, "wrong": 0, "errors": {"500": 3}, "late": {}}
    second |= {"latency": {"300": 10}, "rows": 12, "batches": 3}
    events = [("begin", {}), ("second", second), ("second", second), ("end", {"unfinished": {"900": 30}})]
    sums = totals(events, count_unfinished=True)
    assert (sums["sent"], sums["ok"], sums["rejected"], sums["errors"], sums["seconds"]) == (40, 20, 2, 6, 2)
    assert (sums["throughput_rps"], sums["mean_batch_rows"], sums["unfinished"]) == (10.0, 4.0, 30)
    assert sums["p50_ms"] == pytest.approx(math.exp(9), rel=0.01)
    assert totals(events)["p99_ms"] == pytest.approx(math.exp(3), rel=0.01)


def test_a_spec_survives_encoding() -> None:
    body = Body("b", "bytes", bytes(range(256)), "application/octet-stream")
    spec = LoadSpec(port=8000, load=Load("open", 12.5), seconds=60, bodies=[body], references={"b": [1.0]})
    assert msgspec.json.decode(msgspec.json.encode(spec), type=LoadSpec) == spec
