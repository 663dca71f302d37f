"""Looks after a process's connections: how many there may be, which have sat there too long, and how they end.

It walks over all of them once a second, so that a request costs no timer of its own.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from smartbatch.shared.errors import Draining, SmartBatchError

if TYPE_CHECKING:
    from smartbatch.gateway.http.connection import Connection

log = logging.getLogger(__name__)

LOOK_S = 1.0
# How long after SIGTERM a request that has begun to come may take to come whole.
DRAIN_HALF_SENT_S = 1.0
# So long before uvicorn cancels what is left at the end of GRACE_TIME, it is answered by us.
DRAIN_MARGIN_S = 0.5
# A search for connections to give up walks over all of them; then it pauses for so many times the CPU time it took.
SEARCH_PAUSE = 10
# Those turned away may stay until they have read why, so many at a time.
MAX_TURNED_AWAY = 64
# Open files of this process that are no client's, or of one turned away: Redis, the log, the loop's own.
OTHER_FILES = 128 + MAX_TURNED_AWAY


class ConnectionRegistry:
    """One per process, made by the lifespan; all its methods are for the event loop's thread."""

    def __init__(
        self,
        max_connections: int,
        grace_time: float,
        count: Callable[[str], None],
        tell: Callable[[SmartBatchError], object],
    ) -> None:
        self.count = count
        self._tell = tell
        self.draining = False
        self.drain_began = asyncio.Event()
        self.now = time.monotonic()  # of the last look
        self.most = affordable(max_connections)
        self._grace_s = grace_time
        self._inside: dict[Connection, None] = {}  # in the order of their last answer, or of coming
        self._idle: deque[Connection] = deque()
        self._search_after = 0.0
        self._turned_away: set[Connection] = set()

    @property
    def connections(self) -> int:
        """How many are open, without those turned away."""
        return len(self._inside)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.now = time.monotonic()
            for connection in list(self._inside):
                connection.look(self.now)

    def admit(self, connection: Connection) -> bool:
        """Let one in. At the limit, the one that has been idle longest goes; if none is idle, the answer is False.

        So connections that do nothing never keep out a client, nor a probe.
        """
        if len(self._inside) >= self.most and not self._give_one_up():
            return False
        self._inside[connection] = None
        return True

    def refused(self, error: SmartBatchError) -> None:
        """Count and log a connection that is ended for what came, or didn't; no request of it is counted."""
        self.count(error.code)
        self._tell(error)

    def turn_away(self, connection: Connection) -> bool:
        """Whether one that wasn't admitted may stay until it has read why."""
        if len(self._turned_away) >= MAX_TURNED_AWAY:
            return False
        self._turned_away.add(connection)
        return True

    def release(self, connection: Connection) -> None:
        self._inside.pop(connection, None)
        self._turned_away.discard(connection)

    def answered(self, connection: Connection) -> None:
        """It has been of use just now: it is the last to be given up."""
        if connection in self._inside:
            del self._inside[connection]
            self._inside[connection] = None

    def drain(self) -> None:
        """Once: what has come whole is answered, what has come half is given a second."""
        if self.draining:
            return
        self.draining = True
        self.drain_began.set()
        loop = asyncio.get_running_loop()
        loop.call_later(DRAIN_HALF_SENT_S, self._end_half_sent)
        loop.call_later(max(DRAIN_HALF_SENT_S, self._grace_s) - DRAIN_MARGIN_S, self._end_all)

    def _give_one_up(self) -> bool:
        if not self._idle and time.monotonic() > self._search_after:
            # Measured in CPU time: a search that lost the processor in between must not refuse clients for longer.
            before_s = time.thread_time()
            self._idle.extend(connection for connection in self._inside if connection.idle)
            self._search_after = time.monotonic() + SEARCH_PAUSE * (time.thread_time() - before_s)
        while self._idle:
            connection = self._idle.popleft()
            if connection in self._inside and connection.idle:
                self.count("idle")
                self.release(connection)
                connection.abort()
                return True
        return False

    def _end_half_sent(self) -> None:
        for connection in list(self._inside):
            connection.end_half_sent(Draining("the server is shutting down and the request is incomplete"))

    def _end_all(self) -> None:
        for connection in list(self._inside):
            connection.end(Draining("the server is shutting down and GRACE_TIME is over"))


def affordable(connections: int) -> int:
    """Raise the limit of open files as far as is needed and allowed; return how many connections there is room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    most = max(16, soft - OTHER_FILES)
    log.warning("MAX_CONNECTIONS is %d, but %d open files allow for %d (ulimit -n)", connections, soft, most)
    return most
