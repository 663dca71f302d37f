"""Closed-loop and open-loop load from one thread.

Latency is measured from a request's intended start. A generator that waits for a response before it sends again sends
less just when the server is slow, which hides the worst latencies (coordinated omission). In the open loop the wait for
a free connection and a late start of the generator count as latency.

The loops use plain sockets and epoll, because the generator shares the cores with the servers. An asyncio event loop
with transports takes 1.5 times the CPU at 15,400 requests/s.
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

SEED = 1  # makes arrivals and bodies the same in each run
RETRY_S = 0.1  # pause before a failed connection is retried
TICK_S = 0.0005  # requests due within a tick are sent together; responses are read at least once per tick
READ_BYTES = 65536
OPEN_FILES = 8192
IDLE_S = (
    2.0  # an open loop closes connections idle for longer; a server may close them after 5 s, just as one is reused
)

# select.poll, used if there is no epoll, takes its timeout in milliseconds
_EPOLL = hasattr(select, "epoll")
IN, OUT, BROKEN = select.POLLIN, select.POLLOUT, select.POLLERR | select.POLLHUP


class Recorder(Protocol):
    """Records the requests of a loop. Times are seconds on the loop's clock."""

    def started(self, start: float, now: float) -> None:
        """Record a request that was due at `start`. It is sent now, or as soon as a connection is free."""

    def ended(self, connection: Connection, start: float, now: float) -> float:
        """Record a response (`connection.status`), or NO_RESPONSE. Return how many seconds a closed loop pauses."""
        ...

    def failed(self, error: str) -> None:
        """Record a request that ended before it was sent."""


class LoadLoop(ABC):
    """Sends requests to 127.0.0.1, chosen at random or, if `seed` is None, in turn.

    All work is done inside `run`, which may be called repeatedly.
    """

    def __init__(self, port: int, requests: Sequence[bytes], recorder: Recorder, seed: int | None = SEED) -> None:
        self.recorder = recorder
        self._address = ("127.0.0.1", port)
        self._requests = requests
        numbers = range(len(requests))
        self._choice = itertools.cycle(numbers if seed is None else random.Random(seed).choices(numbers, k=4096))
        self._open: dict[int, Connection] = {}  # by file descriptor
        self._lost_sockets: list[socket.socket] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_number = itertools.count()
        self._unfinished = 0  # requests that were due and have no response or error yet
        self._poller = select.epoll() if _EPOLL else select.poll()
        self._begin = time.perf_counter()

    done = False  # whether every request has been sent and has ended

    @abstractmethod
    def in_flight(self) -> list[float]:
        """Return the intended starts of the requests that have no response yet."""

    def now(self) -> float:
        return time.perf_counter() - self._begin

    def run(self, until: float) -> None:
        """Send and receive until the time `until` or until done."""
        while not self.done and (now := self.now()) < until:
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
            wake_at = min(until, self._send_due(now), self._timers[0][0] if self._timers else until)
            for file, event in self._wait(wake_at):
                if connection := self._open.get(file):  # an earlier event may have removed it
                    self._handle(connection, event)
            self._close_lost()

    def expire(self, timeout_s: float) -> None:
        """Close connections whose request has waited longer. Call it once a second."""
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
            self._poller.close()  # type: ignore[union-attr] # select.poll has no close

    def _send_due(self, now: float) -> float:
        """Send the requests that are due; return when the next one is due."""
        return float("inf")

    @abstractmethod
    def _free(self, connection: Connection, pause_s: float) -> None:
        """Handle a connection that has become usable; `pause_s` is what the recorder returned for its response."""

    @abstractmethod
    def _replace(self, connection: Connection) -> None:
        """Handle the end of a connection; unless it is `connected` it was never usable."""

    def _after(self, seconds: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self.now() + seconds, next(self._timer_number), callback))

    def _wait(self, until: float) -> Sequence[tuple[int, int]]:
        """Wait for events until then. epoll waits whole milliseconds, so sleep at most a tick if less is left."""
        wait_s = until - self.now()
        if wait_s < 2 * TICK_S:
            time.sleep(max(0.0, min(wait_s, TICK_S)))
            wait_s = 0.0
        return self._poller.poll(int(wait_s * 1000) / (1000 if _EPOLL else 1))

    def _connect(self) -> None:
        try:
            sock = socket.socket()
        except OSError:  # too many open files
            self._after(RETRY_S, self._connect)
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open[sock.fileno()] = connection = Connection(sock)
        self._poller.register(sock, OUT)
        if sock.connect_ex(self._address) not in (0, errno.EINPROGRESS):  # the outcome is reported as an event
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
        if not data or connection.start is None:  # closed by the server, or data without a request
            self._lost(connection)
        elif connection.receive(data):
            pause_s = self._end(connection)
            if connection.unsent:  # the server responded early and would read the next request as the rest of this one
                self._lost(connection)
            else:
                self._free(connection, pause_s)

    def _end(self, connection: Connection) -> float:
        """Record the end of the request in flight, if there is one."""
        start, connection.start = connection.start, None
        if start is None:
            return 0.0
        self._unfinished -= 1
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
        """Close sockets between two polls only: a new socket may reuse the file descriptor of a pending event."""
        while self._lost_sockets:
            self._lost_sockets.pop().close()


class ClosedLoop(LoadLoop):
    """Each user has a connection and sends again once it has its response."""

    def __init__(
        self, port: int, requests: Sequence[bytes], recorder: Recorder, users: int, seed: int | None = SEED
    ) -> None:
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
    """Sends a request at each of the ascending `starts`. Opens connections as needed, at most `connections`.

    If all of them are busy, a request waits for a free one.
    """

    def __init__(
        self,
        port: int,
        requests: Sequence[bytes],
        recorder: Recorder,
        starts: Iterator[float],
        connections: int = 1024,
        seed: int | None = SEED,
    ) -> None:
        super().__init__(port, requests, recorder, seed)
        self._starts = starts
        self._next_start = next(starts, float("inf"))
        self._idle: list[Connection] = []  # a stack, so that unneeded connections become idle for long and are closed
        self._waiting: deque[float] = deque()  # starts of requests without a connection
        self._may_open = connections  # less the open ones and those that will be retried
        self._open_one()

    @property
    def done(self) -> bool:
        return not self._unfinished and self._next_start == float("inf")

    def in_flight(self) -> list[float]:
        busy = [connection.start for connection in self._open.values() if connection.start is not None]
        return [*busy, *self._waiting]

    def expire(self, timeout_s: float) -> None:
        super().expire(timeout_s)
        now = self.now()
        while self._waiting and self._waiting[0] < now - timeout_s:
            self._waiting.popleft()
            self._unfinished -= 1
            self.recorder.failed("no response")
        for connection in [each for each in self._idle if each.freed_at < now - IDLE_S]:
            self._lost(connection)

    def _send_due(self, now: float) -> float:
        while self._next_start <= now + TICK_S:
            start = self._next_start
            self._next_start = next(self._starts, float("inf"))
            self._unfinished += 1
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
    """Yield the starts of Poisson arrivals in seconds; equal seeds give equal starts."""
    clock, draw = 0.0, random.Random(seed)
    while (clock := clock + draw.expovariate(rate)) < seconds:
        yield clock


def raise_open_files_limit() -> None:
    """Allow thousands of connections, here and in processes started later. Many systems allow 1,024 by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
