"""All connections of a process: how many there may be, checks of their timeouts, and their end in a drain.

It walks over all of them once a second, so that a request needs no timer of its own.
"""

from __future__ import annotations

import asyncio
import logging
import operator
import resource
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from smartbatch.shared.errors import Draining, SmartBatchError

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0
# How long after SIGTERM the rest of an incomplete request is awaited.
DRAIN_INCOMPLETE_S = 1.0
# So long before uvicorn cancels what is left at the end of GRACE_TIME, the registry answers it.
DRAIN_MARGIN_S = 0.5
# A search for idle connections walks over all of them; the next one waits for so many times the CPU time it took.
SEARCH_PAUSE = 10
# Rejected connections may stay until they have read the reason, so many at a time.
MAX_REJECTED = 64
# Open files of this process that are no admitted connections: rejected ones, Redis, the log, the event loop's own.
OTHER_FILES = 128 + MAX_REJECTED


class RegisteredConnection(Protocol):
    """Implemented by Connection."""

    last_used: int  # rises with each response of the process; the lowest is evicted first

    @property
    def idle(self) -> bool: ...
    def check_timeouts(self, now: float) -> None: ...
    def end_incomplete(self, error: SmartBatchError) -> None: ...
    def end(self, error: SmartBatchError) -> None: ...
    def abort(self) -> None: ...


class ConnectionRegistry:
    """One per process, closed with its services. Event loop only."""

    def __init__(
        self,
        max_connections: int,
        grace_time: float,
        count: Callable[[str], None],
        log_error: Callable[[SmartBatchError], object],
    ) -> None:
        self.count = count
        self._log_error = log_error
        self.draining = False
        self.drain_began = asyncio.Event()
        self.now = time.monotonic()  # of the last check
        self.limit = affordable(max_connections)
        self._grace_s = grace_time
        self._admitted: dict[RegisteredConnection, None] = {}  # in the order of their admission
        self._idle: deque[RegisteredConnection] = deque()
        self._search_after = 0.0
        self._rejected: set[RegisteredConnection] = set()

    @property
    def connections(self) -> int:
        """How many are open, without rejected ones."""
        return len(self._admitted)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            self.now = time.monotonic()
            for connection in list(self._admitted):
                connection.check_timeouts(self.now)

    def admit(self, connection: RegisteredConnection) -> bool:
        """Admit a connection. At the limit the one that has been idle longest is closed; if none is idle, return False.

        So idle connections never keep out a client, nor a probe.
        """
        if len(self._admitted) >= self.limit and not self._evict():
            return False
        self._admitted[connection] = None
        return True

    def record_error(self, error: SmartBatchError) -> None:
        """Count and log an error that no request accounts for."""
        self.count(error.code)
        self._log_error(error)

    def reject(self, connection: RegisteredConnection) -> bool:
        """Return whether a connection that wasn't admitted may stay until it has read the reason."""
        if len(self._rejected) >= MAX_REJECTED:
            return False
        self._rejected.add(connection)
        return True

    def release(self, connection: RegisteredConnection) -> None:
        self._admitted.pop(connection, None)
        self._rejected.discard(connection)

    def drain(self) -> None:
        """Begin to drain, the first time: complete requests are answered, incomplete ones get a second."""
        if self.draining:
            return
        self.draining = True
        self.drain_began.set()
        loop = asyncio.get_running_loop()
        loop.call_later(DRAIN_INCOMPLETE_S, self._end_incomplete)
        loop.call_later(max(DRAIN_INCOMPLETE_S, self._grace_s) - DRAIN_MARGIN_S, self._end_all)

    def _evict(self) -> bool:
        """Close the connection that has been idle longest. Returns False if none is idle."""
        if not self._idle and time.monotonic() > self._search_after:
            # Measured in CPU time: a search that lost the processor in between must not keep clients out for longer.
            before_s = time.thread_time()
            idle = [connection for connection in self._admitted if connection.idle]
            self._idle.extend(sorted(idle, key=operator.attrgetter("last_used")))
            self._search_after = time.monotonic() + SEARCH_PAUSE * (time.thread_time() - before_s)
        while self._idle:
            connection = self._idle.popleft()
            if connection in self._admitted and connection.idle:
                self.count("idle")
                self.release(connection)
                connection.abort()
                return True
        return False

    def _end_incomplete(self) -> None:
        for connection in list(self._admitted):
            connection.end_incomplete(Draining("the server is shutting down and the request is incomplete"))

    def _end_all(self) -> None:
        for connection in list(self._admitted):
            connection.end(Draining("the server is shutting down and GRACE_TIME is over"))


def affordable(connections: int) -> int:
    """Raise the limit of open files as far as needed and allowed. Returns how many connections it has room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    limit = max(16, soft - OTHER_FILES)
    log.warning("MAX_CONNECTIONS is %d, but %d open files allow for %d (ulimit -n)", connections, soft, limit)
    return limit
