"""Closed-loop and open-loop load from one thread.

Latency runs from a request's intended start. A generator that waits for a response before it sends again sends less
just when the server is slow, and hides the worst latencies (coordinated omission). In the open loop a request that
finds no free connection, or a late generator, waits on the request's own clock.

Plain sockets and epoll: the generator shares the cores with the servers it measures, and an asyncio event loop with
transports takes half as much CPU again at 15,400 requests/s.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import random
import resource
import select
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from loadtest.generator.connection import NO_RESPONSE, Connection

SEED = 1  # the same arrivals and bodies in each run
RETRY_S = 0.1  # before a failed connection is tried again
TICK_S = 0.0005  # requests due within it are sent together, and responses are read at least that often
READ_BYTES = 65536
OPEN_FILES = 8192
IDLE_S = 2.0  # an open loop closes connections idle for longer: servers do after five, perhaps just as one is reused

# select.poll, where there is no epoll, takes its timeout in milliseconds
_EPOLL = hasattr(select, "epoll")
IN, OUT, BROKEN = select.POLLIN, select.POLLOUT, select.POLLERR | select.POLLHUP


class Recorder(Protocol):
    """Receives what happens to each request of a loop. Times are seconds on the loop's clock."""

    def started(self, start: float, now: float) -> None:
        """A request was due at `start`; it is sent now, or as soon as a connection is free."""

    def ended(self, connection: Connection, start: float, now: float) -> float:
        """A response came (`connection.status`), or NO_RESPONSE. Return the seconds that a closed loop pauses."""
        ...

    def failed(self, error: str) -> None:
        """A request ended before it could be sent."""


class LoadLoop(ABC):
    """Sends requests to 127.0.0.1. Single-threaded: work is done inside `run`, which may be called repeatedly."""

    def __init__(self, port: int, requests: Sequence[bytes], recorder: Recorder, seed: int = SEED) -> None:
        self.recorder = recorder
        self._address = ("127.0.0.1", port)
        self._requests = requests
        self._choice = itertools.cycle(random.Random(seed).choices(range(len(requests)), k=4096))
        self._open: dict[int, Connection] = {}  # by file descriptor
        self._lost_sockets: list[socket.socket] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_number = itertools.count()
        self._unended = 0  # requests that were due and have neither response nor error
        self._poller = select.epoll() if _EPOLL else select.poll()
        self._begin = time.perf_counter()

    done = False  # whether no request is left to send or to wait for

    @abstractmethod
    def in_flight(self) -> list[float]:
        """Intended starts of the requests that have no response yet."""

    def now(self) -> float:
        return time.perf_counter() - self._begin

    def run(self, until: float) -> None:
        """Send and receive until then, or until done."""
        while not self.done and (now := self.now()) < until:
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
            wake_at = min(until, self._send_due(now), self._timers[0][0] if self._timers else until)
            for file, event in self._wait(wake_at):
                if connection := self._open.get(file):  # it may be lost since
                    self._handle(connection, event)
            self._close_lost()

    def expire(self, timeout_s: float) -> None:
        """Break connections whose request has waited longer. To be called once a second."""
        oldest = self.now() - timeout_s
        for connection in list(self._open.values()):
            if connection.start is not None and connection.start < oldest:
                self._lost(connection)

    def close(self) -> None:
        self._close_lost()
        for connection in self._open.values():
            connection.socket.close()
        self._open.clear()
        if _EPOLL:
            self._poller.close()  # type: ignore[union-attr]

    def _send_due(self, now: float) -> float:
        """Send what is due; return when the next request is."""
        return float("inf")

    @abstractmethod
    def _free(self, connection: Connection, pause_s: float) -> None:
        """The connection may be used; `pause_s` is what the recorder returned for its response."""

    @abstractmethod
    def _replace(self, connection: Connection) -> None:
        """The connection is gone; it never was usable unless `connected`."""

    def _after(self, seconds: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self.now() + seconds, next(self._timer_number), callback))

    def _wait(self, until: float) -> Sequence[tuple[int, int]]:
        """Wait for events until then; for a tick at most if that is sooner, as epoll waits for whole milliseconds."""
        wait_s = until - self.now()
        if wait_s < 2 * TICK_S:
            time.sleep(max(0.0, min(wait_s, TICK_S)))
            wait_s = 0.0
        return self._poller.poll(int(wait_s * 1000) / (1000 if _EPOLL else 1))

    def _connect(self) -> None:
        try:
            sock = socket.socket()
        except OSError:  # no more files
            self._after(RETRY_S, self._connect)
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open[sock.fileno()] = connection = Connection(sock)
        self._poller.register(sock, OUT)
        if sock.connect_ex(self._address) not in (0, errno.EINPROGRESS):  # otherwise the outcome comes as an event
            self._lost(connection)

    def _send(self, connection: Connection, start: float) -> None:
        body = next(self._choice)
        connection.begin(body, self._requests[body], start, self.now())
        self._write(connection)

    def _write(self, connection: Connection) -> None:
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lost(connection)
            return
        resumed = len(connection.unsent) < len(self._requests[connection.body])
        connection.unsent = connection.unsent[sent:]
        if resumed or connection.unsent:
            self._poller.modify(connection.socket, IN | OUT if connection.unsent else IN)

    def _handle(self, connection: Connection, event: int) -> None:
        if not connection.connected:
            if event & BROKEN:
                self._lost(connection)
                return
            connection.connected = True
            self._poller.modify(connection.socket, IN)
            connection.freed_at = self.now()
            self._free(connection, 0.0)
        elif event & OUT:
            self._write(connection)
        else:
            self._read(connection)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or connection.start is None:  # closed by the server, or bytes without a request
            self._lost(connection)
        elif connection.receive(data):
            pause_s = self._end(connection)
            if connection.unsent:  # an early response: the next one would be taken for the rest of this request
                self._lost(connection)
            else:
                self._free(connection, pause_s)

    def _end(self, connection: Connection) -> float:
        """Record the end of the request in flight, if there is one."""
        start, connection.start = connection.start, None
        if start is None:
            return 0.0
        self._unended -= 1
        connection.freed_at = self.now()
        return self.recorder.ended(connection, start, connection.freed_at)

    def _lost(self, connection: Connection) -> None:
        connection.status = NO_RESPONSE
        self._end(connection)
        self._drop(connection)
        self._replace(connection)

    def _drop(self, connection: Connection) -> None:
        del self._open[connection.socket.fileno()]
        self._poller.unregister(connection.socket)
        self._lost_sockets.append(connection.socket)

    def _close_lost(self) -> None:
        """Only between rounds of events: a new socket may get a closed one's number."""
        while self._lost_sockets:
            self._lost_sockets.pop().close()


class ClosedLoop(LoadLoop):
    """Each of so many users has a connection and sends again when it has its response."""

    def __init__(self, port: int, requests: Sequence[bytes], recorder: Recorder, users: int, seed: int = SEED) -> None:
        super().__init__(port, requests, recorder, seed)
        for _ in range(users):
            self._connect()

    def in_flight(self) -> list[float]:
        return [connection.start for connection in self._open.values() if connection.start is not None]

    def _free(self, connection: Connection, pause_s: float) -> None:
        if pause_s:
            self._drop(connection)
            self._after(pause_s, self._connect)
            return
        now = self.now()
        self.recorder.started(now, now)
        self._send(connection, now)

    def _replace(self, connection: Connection) -> None:
        if not connection.connected:
            self.recorder.started(self.now(), self.now())
            self.recorder.failed("no connection")
        self._after(RETRY_S, self._connect)


class OpenLoop(LoadLoop):
    """Sends a request at each of the ascending `starts`, over as many connections as that takes.

    `connections` bounds them; a request that finds all of them busy waits for one.
    """

    def __init__(
        self,
        port: int,
        requests: Sequence[bytes],
        recorder: Recorder,
        starts: Iterator[float],
        connections: int = 1024,
        seed: int = SEED,
    ) -> None:
        super().__init__(port, requests, recorder, seed)
        self._starts = starts
        self._next_start = next(starts, float("inf"))
        self._idle: list[Connection] = []  # the last one used is used next: the others may time out
        self._waiting: deque[float] = deque()  # starts of requests without a connection
        self._may_open = connections  # less those that are open, and those that will be tried again
        self._open_one()

    @property
    def done(self) -> bool:
        return not self._unended and self._next_start == float("inf")

    def in_flight(self) -> list[float]:
        busy = [connection.start for connection in self._open.values() if connection.start is not None]
        return [*busy, *self._waiting]

    def expire(self, timeout_s: float) -> None:
        super().expire(timeout_s)
        now = self.now()
        while self._waiting and self._waiting[0] < now - timeout_s:
            self._waiting.popleft()
            self._unended -= 1
            self.recorder.failed("no response")
        for connection in [each for each in self._idle if each.freed_at < now - IDLE_S]:
            self._lost(connection)

    def _send_due(self, now: float) -> float:
        while self._next_start <= now + TICK_S:
            start = self._next_start
            self._next_start = next(self._starts, float("inf"))
            self._unended += 1
            self.recorder.started(start, now)
            if self._idle:
                self._send(self._idle.pop(), start)
            else:
                self._waiting.append(start)
                if self._may_open > 0:
                    self._open_one()
        return self._next_start

    def _free(self, connection: Connection, pause_s: float) -> None:
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _open_one(self) -> None:
        self._may_open -= 1
        self._connect()

    def _replace(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._waiting:
            self._may_open += 1
        else:
            self._after(0.0 if connection.connected else RETRY_S, self._connect)


def poisson(rate: float, seconds: float = float("inf"), seed: int = SEED) -> Iterator[float]:
    """Yield the starts of independent arrivals, in seconds, the same ones for the same seed."""
    clock, draw = 0.0, random.Random(seed)
    while (clock := clock + draw.expovariate(rate)) < seconds:
        yield clock


def raise_open_files_limit() -> None:
    """Allow thousands of connections, here and in processes started later: many systems' default is 1,024 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
