"""The open loop: a request that was to start is in the trace, timed from when it was to, whatever the server did."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from loadtest.bench.http_client import request_bytes
from loadtest.bench.open_loop import offer, poisson
from smartbatch.deploy.ports import free_port

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def served_by(serve: Callable[[socket.socket], None], *, after_s: float = 0.0) -> Iterator[int]:
    """Have a thread serve a listening socket, which is there `after_s` from now. Yields the port."""
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


def answer_all(server: socket.socket) -> None:
    """On the next connection."""
    peer, _ = server.accept()
    with peer:
        while peer.recv(65536):
            peer.sendall(ANSWER)


def test_a_stall_counts_for_every_request_that_was_to_start_meanwhile() -> None:
    def stall(server: socket.socket) -> None:
        peer, _ = server.accept()
        with peer:
            peer.recv(65536)
            time.sleep(0.5)
            peer.sendall(ANSWER)
            while peer.recv(65536):
                peer.sendall(ANSWER)

    with served_by(stall) as port:
        trace = offer(port, request_bytes(port, b"x"), [0.0, 0.1, 0.2, 0.3, 0.4], connections=1)
    assert trace.statuses() == {"200": 5}
    latencies = trace.latencies(200)
    for latency, least in zip(latencies, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True):
        assert least - 0.01 <= latency < least + 0.5
    assert trace.lateness()[-1] >= 0.39  # four of them waited for the one connection


def test_what_is_never_answered_is_counted() -> None:
    def hang_up(server: socket.socket) -> None:
        for _ in range(3):
            peer, _ = server.accept()
            peer.recv(65536)
            peer.close()

    with served_by(hang_up) as port:
        trace = offer(port, request_bytes(port, b"x"), [0.0, 0.05, 0.1], connections=3)
    assert trace.statuses() == {"0": 3}
    assert trace.latencies(200) == []


def test_an_answer_that_comes_in_pieces_to_a_request_that_leaves_in_pieces_is_one_answer() -> None:
    body = b"x" * 8_000_000  # more than the kernel holds of it

    def take_all_and_answer_slowly(server: socket.socket) -> None:
        peer, _ = server.accept()
        with peer:
            left = len(request)
            while left and (data := peer.recv(65536)):
                left -= len(data)
            for piece in (ANSWER[:5], ANSWER[5:30], ANSWER[30:-1], ANSWER[-1:]):
                peer.sendall(piece)
                time.sleep(0.02)

    with served_by(take_all_and_answer_slowly) as port:
        request = request_bytes(port, body)
        trace = offer(port, request, [0.0], connections=1)
    assert trace.statuses() == {"200": 1}
    assert trace.latencies(200)[0] >= 0.06


def test_what_finds_nobody_listening_waits_for_it() -> None:
    with served_by(answer_all, after_s=0.3) as port:
        trace = offer(port, request_bytes(port, b"x"), [0.0, 0.1], connections=1)
    assert trace.statuses() == {"200": 2}


def test_what_nobody_asked_for_is_no_answer() -> None:
    def turn_the_first_away(server: socket.socket) -> None:
        peer, _ = server.accept()
        with peer:
            peer.sendall(REFUSAL)
            answer_all(server)

    with served_by(turn_the_first_away) as port:
        trace = offer(port, request_bytes(port, b"x"), [0.2, 0.3], connections=1)
    assert trace.statuses() == {"200": 2}


def test_arrivals_are_the_same_each_time_and_as_many_as_the_rate_says() -> None:
    starts = poisson(1000, 10)
    assert starts == poisson(1000, 10)
    assert starts == sorted(starts) and starts[0] > 0 and starts[-1] < 10
    assert 9_700 < len(starts) < 10_300  # three standard deviations
