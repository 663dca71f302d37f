"""Open loop: requests start when the schedule says, whatever became of those before.

Latency runs from the intended start. A generator that waits for an answer before it sends again sends less just when
the server is slow, and so never sees the worst of it (coordinated omission). Here a request that finds no free
connection, or a generator that is late, waits on its own clock.

Plain sockets and epoll (so Linux only): the generator shares the cores with what it measures, and an event loop with
its transports takes half as much again at 15,400 requests a second.
"""

from __future__ import annotations

import errno
import random
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtest.bench.http_client import UNANSWERED, AnswerReader

SEED = 1  # the same arrivals in each run
PATIENCE_S = 10.0  # how long the last answers are waited for
AGAIN_S = 0.1  # before a connection is tried again
TICK_S = 0.0005  # what is due within it leaves together, and answers are read at least that often
READ_BYTES = 65536


def poisson(rate: float, seconds: float, start_s: float = 0.0, seed: int = SEED) -> list[float]:
    """Return the starts of independent arrivals, in seconds."""
    clock, chance, starts = start_s, random.Random(seed), []
    while (clock := clock + chance.expovariate(rate)) < start_s + seconds:
        starts.append(clock)
    return starts


@dataclass
class Trace:
    """One line per answered request: (intended start, sent, answered, status), in seconds of the schedule."""

    starts: list[float]
    lines: list[tuple[float, float, float, int]] = field(default_factory=list)

    @property
    def offered(self) -> int:
        return len(self.starts)

    def since(self, start_s: float) -> Trace:
        """What was to start at `start_s` or later."""
        return Trace(
            [start for start in self.starts if start >= start_s], [line for line in self.lines if line[0] >= start_s]
        )

    def statuses(self) -> dict[str, int]:
        """How many of each status; 0 is a broken connection, `none` never answered. They add up to `offered`."""
        counted = Counter(str(status) for *_, status in self.lines)
        if missing := self.offered - len(self.lines):
            counted["none"] = missing
        return dict(sorted(counted.items()))

    def latencies(self, *statuses: int) -> list[float]:
        """Seconds from the intended start to the answer, sorted."""
        return sorted(done - start for start, _, done, status in self.lines if status in statuses)

    def lateness(self) -> list[float]:
        """Seconds from the intended start to the sending, sorted: the generator's own part."""
        return sorted(max(0.0, sent - start) for start, sent, _, _ in self.lines)


def percentile(values: list[float], share: float) -> float:
    """The value that `share` (0 to 1) of sorted `values` don't exceed; infinite of none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("inf")


def offer(port: int, request: bytes, starts: list[float], connections: int = 1024) -> Trace:
    """Send a request at each of the sorted `starts`, over as many connections as that takes, up to `connections`.

    Returns once all are answered, or PATIENCE_S after the last.
    """
    return _Offer(port, request, starts, connections).run()


class _Connection:
    __slots__ = ("answer", "connected", "sent_at", "socket", "start", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.connected = False
        self.start: float | None = None  # of the request under way; None: there is none
        self.sent_at = 0.0
        self.unsent = b""
        self.answer = AnswerReader()


class _Offer:
    def __init__(self, port: int, request: bytes, starts: list[float], connections: int) -> None:
        self._address = ("127.0.0.1", port)
        self._request = request
        self._may_open = connections  # less those that are open, and those that will be tried again
        self._open: dict[int, _Connection] = {}  # by file descriptor
        self._idle: list[_Connection] = []  # the last one used is used next: the others may time out
        self._closing: list[socket.socket] = []
        self._again: deque[float] = deque()  # when another connection is tried, the soonest first
        self._waiting: deque[float] = deque()  # to be sent as soon as a connection is free
        self._trace = Trace(starts)
        self._poll = select.epoll()

    def run(self) -> Trace:
        self._begin = time.perf_counter()
        coming = deque(self._trace.starts)
        give_up_at = (coming[-1] if coming else 0.0) + PATIENCE_S
        try:
            self._open_one()
            while len(self._trace.lines) < self._trace.offered and (now := self._now()) < give_up_at:
                while coming and coming[0] <= now + TICK_S:
                    self._send(coming.popleft())
                while self._again and self._again[0] <= now:
                    self._again.popleft()
                    self._may_open += 1
                    self._open_one()
                for file, event in self._events(coming[0] if coming else give_up_at):
                    if file in self._open:  # it may be lost since
                        self._happened(self._open[file], event)
                self._close_lost()
        finally:
            self._close_lost()
            for connection in self._open.values():
                connection.socket.close()
            self._poll.close()
        return self._trace  # what is missing from it was never answered, and `statuses` says so

    def _now(self) -> float:
        return time.perf_counter() - self._begin

    def _events(self, until: float) -> Sequence[tuple[int, int]]:
        """Wait for answers until then, or for a tick if that is sooner: epoll waits for whole milliseconds."""
        wait_s = until - self._now()
        if wait_s < 2 * TICK_S or self._again:
            time.sleep(max(0.0, min(wait_s, TICK_S)))
            wait_s = 0.0
        return self._poll.poll(int(wait_s * 1000) / 1000)

    def _send(self, start: float) -> None:
        if not self._idle:
            self._waiting.append(start)
            if self._may_open > 0:
                self._open_one()
            return
        connection = self._idle.pop()
        connection.start = start
        connection.sent_at = self._now()
        connection.unsent = self._request
        self._write(connection)

    def _write(self, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lost(connection)
            return
        again, connection.unsent = len(connection.unsent) < len(self._request), connection.unsent[sent:]
        if again or connection.unsent:
            self._poll.modify(connection.socket, select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0))

    def _happened(self, connection: _Connection, event: int) -> None:
        if not connection.connected:
            self._connected(connection, event)
        elif event & select.EPOLLOUT:
            self._write(connection)
        else:
            self._read(connection)

    def _connected(self, connection: _Connection, event: int) -> None:
        if event & (select.EPOLLERR | select.EPOLLHUP):
            self._lost(connection)
            return
        connection.connected = True
        self._poll.modify(connection.socket, select.EPOLLIN)
        self._free(connection)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or connection.start is None:  # it was hung up, or told something that nobody had asked for
            self._lost(connection)
        elif connection.answer.whole(data):
            self._answered(connection, connection.answer.status)
            if connection.unsent:  # answered early: what comes next would be taken for the rest
                self._lost(connection)
            else:
                self._free(connection)

    def _answered(self, connection: _Connection, status: int) -> None:
        start, connection.start = connection.start, None
        if start is not None:
            self._trace.lines.append((start, connection.sent_at, self._now(), status))

    def _free(self, connection: _Connection) -> None:
        self._idle.append(connection)
        if self._waiting:
            self._send(self._waiting.popleft())

    def _open_one(self) -> None:
        self._may_open -= 1
        try:
            sock = socket.socket()
        except OSError:  # no more files
            self._again.append(self._now() + AGAIN_S)
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open[sock.fileno()] = connection = _Connection(sock)
        failed = sock.connect_ex(self._address) not in (0, errno.EINPROGRESS)  # else the outcome comes as an event
        self._poll.register(sock, select.EPOLLOUT)
        if failed:
            self._lost(connection)

    def _lost(self, connection: _Connection) -> None:
        """It broke, or was refused: then what is due goes on waiting, and its clock runs."""
        self._answered(connection, UNANSWERED)
        if connection in self._idle:
            self._idle.remove(connection)
        del self._open[connection.socket.fileno()]
        self._poll.unregister(connection.socket)
        self._closing.append(connection.socket)
        if not self._waiting:
            self._may_open += 1
        elif connection.connected:
            self._again.appendleft(self._now())
        else:
            self._again.append(self._now() + AGAIN_S)

    def _close_lost(self) -> None:
        """Only between events, for a new socket may have a closed one's number."""
        while self._closing:
            self._closing.pop().close()
