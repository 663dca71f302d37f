"""smartbatch.client against a server that answers as a test says: retries, deadlines, errors, parts, headers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider

from smartbatch import client as module
from smartbatch.client import AsyncClient, Client, errors
from smartbatch.deploy.ports import free_port

Answer = tuple[int, dict[str, str], bytes]


class Server(ThreadingHTTPServer):
    """Answers each request by `answer(body)`; None breaks the connection. `headers` are those of every request."""

    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.answer: Callable[[bytes], Answer | None] = echo

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gives up a request breaks its connection."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.server.paths.append(self.path)
        answer = self.server.answer(body)
        if answer is None:
            self.close_connection = True
            return
        status, headers, content = answer
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def echo(body: bytes) -> Answer:
    """Answer as the gateway does for a model that returns its input."""
    tensor = msgspec.msgpack.decode(body)
    answer = {"model": "echo", "request_id": "r-1", "outputs": {"output": tensor}, "timing_ms": {"total": 1.0}}
    return 200, {"content-type": "application/msgpack"}, msgspec.msgpack.encode(answer)


def problem(status: int, code: str, **headers: str) -> Answer:
    body = {"status": status, "code": code, "detail": f"the detail of {code}", "request_id": "r-9"}
    return status, {"content-type": "application/problem+json", **headers}, json.dumps(body).encode()


def in_turn(*answers: Answer | Callable[[bytes], Answer] | None) -> Callable[[bytes], Answer | None]:
    """Give each request the next answer, and the last one to all that follow."""
    left = list(answers)

    def answer(body: bytes) -> Answer | None:
        following = left.pop(0) if len(left) > 1 else left[0]
        return following(body) if callable(following) else following

    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, timeout=10) as client:
        yield client


ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_an_array_comes_back_with_the_facts_of_its_request(client: Client) -> None:
    prediction = client.predict(ROWS)
    assert prediction.array.dtype == np.float32
    assert prediction.array.tolist() == ROWS.tolist()
    assert prediction.responses == [{"model": "echo", "request_id": "r-1", "timing_ms": {"total": 1.0}}]


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1, 2], [3, 4]], ">i4"),
        np.arange(12.0).reshape(3, 4).T,
        np.array([[True], [False]]),
        np.zeros((2, 0), np.float16),
        np.arange(4, dtype=np.uint8)[::2],
    ],
)
def test_arrays_of_any_order_and_layout_arrive_as_they_are(client: Client, array: np.ndarray) -> None:
    came = client.predict(array).array
    assert came.shape == array.shape and came.dtype == array.dtype.newbyteorder("=")
    assert came.tolist() == array.tolist()


def test_bfloat16_becomes_float32(server: Server, client: Client) -> None:
    tensor = {"dtype": "bfloat16", "shape": [1, 2], "data": b"\x80\x3f\x00\xc0"}  # 1.0, -2.0
    content = msgspec.msgpack.encode({"outputs": {"output": tensor}})
    server.answer = in_turn((200, {"content-type": "application/msgpack"}, content))
    array = client.predict(ROWS).array
    assert (array.dtype, array.tolist()) == (np.float32, [[1.0, -2.0]])


@pytest.mark.parametrize(("status", "code"), [(503, "queue_full"), (429, "rate_limited")])
def test_a_refusal_is_sent_again_after_retry_after_and_no_sooner(
    server: Server, client: Client, status: int, code: str
) -> None:
    server.answer = in_turn(problem(status, code, **{"retry-after": "1"}), echo)
    started = time.monotonic()
    assert client.predict(ROWS).array.shape == (3, 2)
    assert 1.0 <= time.monotonic() - started < 1.5 + 0.4
    first, second = (float(headers["x-request-timeout"]) for headers in server.headers)
    assert second <= first - 1.0  # the server is told what is left


async def test_pauses_differ_from_client_to_client(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def record(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", record)
    server.answer = in_turn(*[problem(503, "draining", **{"retry-after": "4"})] * 20, echo)
    async with AsyncClient(server.url, timeout=100) as client:
        await client.predict(ROWS)
    assert len(set(pauses)) == 20
    assert 4.0 <= min(pauses) < 4.5 and 5.5 < max(pauses) <= 6.0


def test_a_pause_beyond_the_deadline_is_not_waited_for(server: Server, client: Client) -> None:
    server.answer = in_turn(problem(503, "queue_full", **{"retry-after": "60"}))
    started = time.monotonic()
    with pytest.raises(errors.QueueFull, match="the detail of queue_full") as raised:
        client.predict(ROWS)
    assert time.monotonic() - started < 1
    assert (raised.value.code, raised.value.request_id, raised.value.retry_after_s) == ("queue_full", "r-9", 60.0)
    assert len(server.headers) == 1


def test_a_server_that_does_not_answer_is_waited_for_until_the_deadline(server: Server, client: Client) -> None:
    release = threading.Event()

    def wait(body: bytes) -> None:
        release.wait(10)

    server.answer = wait
    started = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded, match="no response from http"):
        client.predict(ROWS, timeout=0.3)
    assert 0.3 <= time.monotonic() - started < 1
    assert 0.2 < float(server.headers[0]["x-request-timeout"]) <= 0.3
    release.set()


def test_a_broken_connection_is_sent_again(server: Server, client: Client) -> None:
    server.answer = in_turn(None, echo)
    assert client.predict(ROWS).array.shape == (3, 2)
    assert len(server.headers) == 2


def test_a_server_that_is_not_there_is_unavailable_within_a_second() -> None:
    started = time.monotonic()
    with Client(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(errors.Unavailable, match="no response"):
        client.predict(ROWS)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (problem(422, "invalid_input"), errors.InvalidInput, "invalid_input"),
        (problem(404, "unknown_model"), errors.UnknownModel, "unknown_model"),
        (problem(401, "unauthenticated"), errors.Unauthenticated, "unauthenticated"),
        (problem(500, "model_failed"), errors.ModelFailed, "model_failed"),
        (problem(500, "internal_error"), errors.SmartBatchError, "internal_error"),
        (problem(504, "deadline_exceeded"), errors.DeadlineExceeded, "deadline_exceeded"),
        (problem(418, "a_later_code"), errors.ClientError, "a_later_code"),
        ((504, {}, b"<html>proxy</html>"), errors.DeadlineExceeded, "deadline_exceeded"),
        ((502, {}, b"[]"), errors.SmartBatchError, "error"),
        ((302, {"location": "/login"}, b""), errors.ClientError, "bad_request"),
        ((200, {"content-type": "text/html"}, b"<html>another server</html>"), errors.ClientError, "bad_request"),
    ],
)
def test_errors_have_the_type_of_their_code_or_else_of_their_status(
    server: Server, client: Client, answer: Answer, kind: type[errors.SmartBatchError], code: str
) -> None:
    server.answer = in_turn(answer)
    with pytest.raises(errors.SmartBatchError) as raised:
        client.predict(ROWS)
    assert (type(raised.value), raised.value.code) == (kind, code)
    assert len(server.headers) == 1  # none of these is sent again


class AtMost:
    """A server that takes at most so many rows or bytes, and counts how many requests it has at once."""

    def __init__(self, rows: int = 1000, size: int = 10**9) -> None:
        self.rows, self.size = rows, size
        self.sent: list[int] = []
        self.now = self.most_at_once = 0
        self.lock = threading.Lock()

    def __call__(self, body: bytes) -> Answer:
        rows = msgspec.msgpack.decode(body)["shape"][0]
        with self.lock:
            self.sent.append(rows)
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
        time.sleep(0.01)
        with self.lock:
            self.now -= 1
        if len(body) > self.size:
            return problem(413, "body_too_large")
        return problem(413, "too_many_rows") if rows > self.rows else echo(body)


def test_more_rows_than_the_server_takes_are_sent_in_parts_and_joined(server: Server, client: Client) -> None:
    server.answer = counted = AtMost(rows=3)
    rows = np.arange(100, dtype=np.int64).reshape(50, 2)
    assert client.predict(rows).array.tolist() == rows.tolist()
    assert set(counted.sent) >= {50, 25, 13, 7, 4, 2}
    server.answer = counted = AtMost(rows=3)
    prediction = client.predict(rows[:41])
    assert prediction.array.tolist() == rows[:41].tolist()
    assert sorted(counted.sent) == [1, *[2] * 20]  # what was refused before isn't tried again
    assert len(prediction.responses) == 21
    assert 1 < counted.most_at_once <= module.CONNECTIONS


def test_a_body_that_is_too_large_is_halved_too(server: Server, client: Client) -> None:
    server.answer = AtMost(size=3000)
    rows = np.random.default_rng(0).random((64, 16))
    assert client.predict(rows).array.tolist() == rows.tolist()


def test_large_arrays_are_never_sent_as_one_request(server: Server, client: Client) -> None:
    server.answer = counted = AtMost()
    rows = np.zeros((20, 1024, 1024), np.uint8)
    assert client.predict(rows).array.shape == rows.shape
    assert sorted(counted.sent) == [4, 8, 8]


def test_one_row_that_is_too_large_is_an_error(server: Server, client: Client) -> None:
    server.answer = AtMost(size=100)
    with pytest.raises(errors.BodyTooLarge):
        client.predict(np.zeros((2, 1000)))


def test_the_error_of_one_part_is_the_error_of_all(server: Server, client: Client) -> None:
    def answer(body: bytes) -> Answer:
        return problem(422, "invalid_input") if b"\x07" in msgspec.msgpack.decode(body)["data"] else echo(body)

    server.answer = AtMost(rows=2)
    client.predict(np.zeros((4, 1), np.uint8))
    server.answer = answer
    with pytest.raises(errors.InvalidInput):
        client.predict(np.arange(20, dtype=np.uint8)[:, None])


def test_names_and_keys_are_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTBATCH_API_KEY", "from-environment")
    with Client(server.url + "/", model="one") as client:
        client.predict(ROWS, request_id="mine")
        client.predict(ROWS, model="two", top_k=0)
    with Client(server.url, api_key="given") as client:
        client.predict(ROWS)
    assert server.paths == ["/predict?model=one", "/predict?model=two&top_k=0", "/predict"]
    first, second, third = server.headers
    assert (first["x-request-id"], first["authorization"]) == ("mine", "Bearer from-environment")
    assert ("x-request-id" in second, third["authorization"]) == (False, "Bearer given")


def test_the_trace_is_passed_on(server: Server, client: Client) -> None:
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client.predict(ROWS)
    with TracerProvider().get_tracer("test").start_as_current_span("outer") as span:
        client.predict(ROWS)
        client.predict(ROWS, traceparent=given)
    none, current, last = (headers.get("traceparent") for headers in server.headers)
    context = span.get_span_context()
    assert none is None
    assert current == f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert last == given


def test_threads_share_a_client(server: Server, client: Client) -> None:
    server.answer = AtMost()
    right: list[bool] = []

    def ask(number: int) -> None:
        right.append(client.predict(np.full((1, 2), number)).array.tolist() == [[number, number]])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 20


def test_the_package_does_not_import_httpx_and_the_client_no_server() -> None:
    code = "import sys, smartbatch; assert 'httpx' not in sys.modules; import smartbatch.client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "starlette", "smartbatch.gateway", "smartbatch.worker", "opentelemetry"} & set(loaded)


def test_the_client_is_short() -> None:
    assert len(Path(module.__file__).read_text().splitlines()) <= 200


def partial_echo(body: bytes) -> Answer:
    """Answer as the gateway does with `partial` for a model that refuses odd numbers and returns two outputs."""
    request = msgspec.msgpack.decode(body)
    rows = np.frombuffer(request["data"], np.int64).reshape(-1, 1)
    bad = [int(row) for row in np.flatnonzero(rows[:, 0] % 2)]
    good = np.where(rows % 2, 0, rows)
    tensors = {"output": {"dtype": "int64", "shape": rows.shape, "data": good.tobytes()}}
    answer = {"outputs": tensors} if len(bad) < len(rows) else {"values": [None] * len(rows)}
    problems = [{"row": row, "code": "invalid_input", "detail": f"{rows[row, 0]} is odd"} for row in bad]
    content = msgspec.msgpack.encode({"model": "m", **answer, **({"errors": problems} if bad else {})})
    return 200, {"content-type": "application/msgpack"}, content


def test_with_partial_the_rows_that_failed_are_named_across_parts(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 16)  # two rows in a request
    server.answer = partial_echo
    with Client(server.url) as client:
        prediction = client.predict(np.array([[2], [3], [5], [7], [4], [6]]), partial=True)
        all_bad = client.predict(np.array([[1], [3], [5]]), partial=True)
    assert set(server.paths) == {"/predict?partial=true"}
    assert prediction.array.tolist() == [[2], [0], [0], [0], [4], [6]]
    assert {row: str(error) for row, error in prediction.failed.items()} == {
        1: "3 is odd",
        2: "5 is odd",
        3: "7 is odd",
    }
    assert {type(error) for error in prediction.failed.values()} == {errors.InvalidInput}
    assert prediction.responses == [{"model": "m"}] * 3
    assert (all_bad.outputs, all_bad.values) == ({}, list(all_bad.failed.values()))
    assert list(all_bad.failed) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["values", "predictions"])
def test_with_partial_errors_are_in_the_places_of_their_rows(server: Server, client: Client, kind: str) -> None:
    problems = [{"row": 1, "code": "model_failed", "detail": "no"}]
    content = msgspec.msgpack.encode({kind: [[{"label": "a"}], None], "errors": problems})
    server.answer = in_turn((200, {"content-type": "application/msgpack"}, content))
    good, bad = getattr(client.predict(["a", "b"], partial=True), kind)
    assert good == [{"label": "a"}]
    assert (type(bad), bad.code, str(bad)) == (errors.ModelFailed, "model_failed", "no")
