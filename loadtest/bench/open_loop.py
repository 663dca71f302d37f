"""Open loop: requests start when the schedule says, whatever became of those before.

Latency runs from the intended start. A generator that waits for an answer before it sends again sends less just when
the server is slow, and so never sees the worst of it (coordinated omission). Here a request that finds no free
connection, or a generator that is late, waits on its own clock.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from dataclasses import dataclass, field

import uvloop

from loadtest.bench.http_client import UNANSWERED, Connection, connect

SEED = 1  # the same arrivals in each run
PATIENCE_S = 10.0  # how long the last answers are waited for
AGAIN_S = 0.1  # before a connection is tried again
TICK_S = 0.0005  # what is due within it leaves together: timers are no finer


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
    return uvloop.run(_Offer(port, request, starts, connections).run())


class _Offer:
    def __init__(self, port: int, request: bytes, starts: list[float], connections: int) -> None:
        self._port = port
        self._request = request
        self._may_open = connections - 1  # `run` opens the first
        self._ended = False
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # the last one used is used next: the others may time out
        self._due: deque[float] = deque()  # to be sent as soon as a connection is free
        self._trace = Trace(starts)
        self._all_answered = asyncio.Event()
        self._opening: set[asyncio.Task[None]] = set()

    async def run(self) -> Trace:
        self._clock = asyncio.get_running_loop().time
        await self._open_one()
        self._begin = self._clock()
        due = deque(self._trace.starts)
        while due:
            await asyncio.sleep(max(0.0, self._begin + due[0] - self._clock()))  # also when late: answers must be read
            now = self._clock() - self._begin + TICK_S
            while due and due[0] <= now:
                self._send(due.popleft())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._all_answered.wait()
        except TimeoutError:
            pass  # they are missing from the trace, and `statuses` says so
        self._ended = True
        for opening in self._opening:
            opening.cancel()
        for connection in list(self._open):
            connection.close()
        return self._trace

    def _send(self, start: float) -> None:
        if not self._idle:
            self._due.append(start)
            if self._may_open > 0:
                self._may_open -= 1
                opening = asyncio.create_task(self._open_one())
                self._opening.add(opening)
                opening.add_done_callback(self._opening.discard)
            return
        connection, _ = self._idle.popitem()
        connection.mark = start
        connection.sent_at = self._clock() - self._begin
        connection.send(self._request)

    async def _open_one(self) -> None:
        while True:
            try:
                connection = await connect(self._port, self._answered, self._lost)
                break
            except OSError:  # refused; what is due goes on waiting, and its clock runs
                await asyncio.sleep(AGAIN_S)
        self._open.add(connection)
        self._free(connection)

    def _answered(self, connection: Connection, status: int) -> None:
        if self._ended:
            return  # we gave up, not the server
        lines = self._trace.lines
        lines.append((connection.mark, connection.sent_at, self._clock() - self._begin, status))
        if len(lines) == self._trace.offered:
            self._all_answered.set()
        if status != UNANSWERED:
            self._free(connection)

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)
        self._may_open += 1

    def _free(self, connection: Connection) -> None:
        self._idle[connection] = None
        if self._due:
            self._send(self._due.popleft())
