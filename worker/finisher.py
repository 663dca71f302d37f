"""Finishing: what batches produced leaves for Redis, everything that gathered in one call.

Nothing is given up while anybody may still wait for it: a failed call is repeated, which is harmless.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from shared.broker.claims import Claims, Outcome
from shared.errors import BrokerUnavailable
from worker.meters import Meters

log = logging.getLogger(__name__)

MAX_CALL_ENTRIES = 256
MAX_CALL_BYTES = 1024 * 1024
RETRY_S = (0.02, 0.1, 0.25, 0.5)


class Finisher:
    """One long-lived task. `put` is called from the event loop; `on_finished` after each call that went through."""

    def __init__(self, claims: Claims, meters: Meters, give_up_after_s: float) -> None:
        self._claims = claims
        self._meters = meters
        self._give_up_after_s = give_up_after_s
        self._waiting: list[Outcome] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self.on_finished: Callable[[Sequence[Outcome]], None] = lambda outcomes: None

    def put(self, outcomes: Sequence[Outcome]) -> None:
        self._waiting += outcomes
        self._wake.set()

    async def drain(self) -> None:
        """Return when everything put so far has left."""
        self._idle.clear()
        self._wake.set()
        await self._idle.wait()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._send(self._cut())
            self._idle.set()

    def _cut(self) -> list[Outcome]:
        size = 0
        for count, outcome in enumerate(self._waiting):
            size += len(outcome.reply)
            if count == MAX_CALL_ENTRIES or (count and size > MAX_CALL_BYTES):
                break
        else:
            count = len(self._waiting)
        flush, self._waiting = self._waiting[:count], self._waiting[count:]
        return flush

    async def _send(self, flush: list[Outcome]) -> None:
        started = time.monotonic()
        attempt = 0
        while True:
            try:
                await self._claims.finish(flush)
                break
            except BrokerUnavailable as error:
                self._meters.broker_errors.inc()
                if time.monotonic() - started > self._give_up_after_s:
                    log.error("gave up publishing %d replies after %.0f s", len(flush), self._give_up_after_s)
                    break
                log.warning("publishing %d replies failed and is repeated: %s", len(flush), error)
                await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                attempt += 1
        self.on_finished(flush)
