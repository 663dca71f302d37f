"""Ends what is not answered in time. One timer for all requests of a lane: nearly none ever needs its own."""

from __future__ import annotations

import asyncio
import math
import operator
import time
from collections.abc import Mapping

from smartbatch.gateway.queue.pending import Pending
from smartbatch.shared.errors import DeadlineExceeded

# So long may pass between two looks, and a request be late by. A look walks over all that are outstanding.
EVERY_S = 0.01

_DEADLINE_AT = operator.attrgetter("deadline_at")


class Deadlines:
    """One per lane, in its event loop."""

    def __init__(self, outstanding: Mapping[str, Pending]) -> None:
        self._outstanding = outstanding
        self._next_at = math.inf
        self._looked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, pending: Pending) -> None:
        """Look no later than at this one's deadline. Until then an answered one is no trouble: it is gone."""
        if pending.deadline_at < self._next_at:  # seldom
            at = max(pending.deadline_at, self._looked_at + EVERY_S)
            if at < self._next_at:
                self._look_at(at)

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _look_at(self, at: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._next_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._look)  # the loop's clock is time.monotonic()

    def _look(self) -> None:
        self._looked_at = now = time.monotonic()
        self._timer, self._next_at = None, math.inf
        earliest = min(map(_DEADLINE_AT, self._outstanding.values()), default=math.inf)
        if earliest <= now:
            earliest = self._end_late(now)
        if earliest < self._next_at:
            self._look_at(max(earliest, now + EVERY_S))

    def _end_late(self, now: float) -> float:
        """End those whose time is up, and return the earliest deadline of the others."""
        late: list[Pending] = []
        earliest = math.inf
        for pending in self._outstanding.values():
            if pending.deadline_at <= now:
                late.append(pending)
            else:
                earliest = min(earliest, pending.deadline_at)
        for pending in late:
            waited = now - pending.started_at
            pending.end(DeadlineExceeded(f"not answered within {waited:.3g} s"))
        return earliest
