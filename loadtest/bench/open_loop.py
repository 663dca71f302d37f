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

from loadtest.bench.http_client import Connection, connect

SEED = 1  # the same arrivals in each run
PATIENCE_S = 10.0  # how long the last answers are waited for
TICK_S = 0.001  # what is due within it leaves together; that lateness counts as latency


def poisson(rate: float, seconds: float, start_s: float = 0.0, seed: int = SEED) -> list[float]:
    """Return the starts of independent arrivals, in seconds."""
    clock, chance, starts = start_s, random.Random(seed), []
    while (clock := clock + chance.expovariate(rate)) < start_s + seconds:
        starts.append(clock)
    return starts


@dataclass
class Trace:
    """One line per answered request: (intended start, sent, answered, status), in seconds of the schedule."""

    lines: list[tuple[float, float, float, int]] = field(default_factory=list)
    offered: int = 0

    def since(self, start_s: float) -> Trace:
        """What was to start at `start_s` or later."""
        lines = [line for line in self.lines if line[0] >= start_s]
        return Trace(lines, self.offered - (len(self.lines) - len(lines)))

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
        return sorted(sent - start for start, sent, _, _ in self.lines)


def percentile(values: list[float], share: float) -> float:
    """The value that `share` (0 to 1) of sorted `values` don't exceed; infinite of none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("inf")


def offer(port: int, request: bytes, starts: list[float], connections: int = 64) -> Trace:
    """Send a request at each of the sorted `starts`. Returns once all are answered, or PATIENCE_S after the last."""
    return uvloop.run(_Offer(port, request, connections).run(starts))


class _Offer:
    def __init__(self, port: int, request: bytes, connections: int) -> None:
        self._port = port
        self._request = request
        self._connections = connections
        self._idle: list[Connection] = []
        self._due: deque[float] = deque()  # to be sent as soon as a connection is free
        self._trace = Trace()
        self._all_answered = asyncio.Event()
        self._replacing: set[asyncio.Task[None]] = set()

    async def run(self, starts: list[float]) -> Trace:
        self._clock = asyncio.get_running_loop().time
        for _ in range(self._connections):
            self._idle.append(await connect(self._port, self._answered))
        opened = list(self._idle)
        self._trace.offered = len(starts)
        self._begin = self._clock()
        for start in starts:
            if (wait := self._begin + start - self._clock()) > 0:
                await asyncio.sleep(max(wait, TICK_S))
            self._send(start)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._all_answered.wait()
        except TimeoutError:
            pass  # they are missing from the trace, and `statuses` says so
        finally:
            for connection in opened:
                connection.close()
        return self._trace

    def _send(self, start: float) -> None:
        if not self._idle:
            self._due.append(start)
            return
        connection = self._idle.pop()
        connection.mark = start
        connection.sent_at = self._clock() - self._begin
        connection.send(self._request)

    def _answered(self, connection: Connection, status: int) -> None:
        lines = self._trace.lines
        lines.append((connection.mark, connection.sent_at, self._clock() - self._begin, status))
        if len(lines) == self._trace.offered:
            self._all_answered.set()
        if connection.closed:
            replacing = asyncio.create_task(self._replace())
            self._replacing.add(replacing)
            replacing.add_done_callback(self._replacing.discard)
            return
        self._free(connection)

    async def _replace(self) -> None:
        self._free(await connect(self._port, self._answered))

    def _free(self, connection: Connection) -> None:
        self._idle.append(connection)
        if self._due:
            self._send(self._due.popleft())
