"""The heartbeat: renew the lease, report, audit what is held, convict the dead. Every half second, whatever the
device does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from shared.broker.leases import Beat, Leases
from shared.errors import BrokerUnavailable
from worker.conviction import Convictions
from worker.meters import Meters

log = logging.getLogger(__name__)

BEAT_S = 0.5


class Heartbeat:
    """One long-lived task. `on_beat(beat, sent_at)` is awaited after each beat that went through."""

    def __init__(self, leases: Leases, convictions: Convictions, meters: Meters, report: Callable[[], Mapping]) -> None:
        self._leases = leases
        self._convictions = convictions
        self._meters = meters
        self._report = report
        self._now = asyncio.Event()
        self.on_beat: Callable[[Beat, float], Awaitable[None]] = _nothing
        self.alive: Callable[[], None] = lambda: None  # called at every turn, whether Redis answered or not

    def soon(self) -> None:
        """Beat now rather than at the next half second, so a change of state shows at once."""
        self._now.set()

    async def run(self) -> None:
        while True:
            await self.beat()
            self.alive()
            try:
                async with asyncio.timeout(BEAT_S):
                    await self._now.wait()
            except TimeoutError:
                pass
            self._now.clear()

    async def beat(self) -> None:
        sent_at = time.monotonic()
        try:
            beat = await self._leases.beat(self._report())
            for convict in self._convictions.beat_succeeded(beat.lapsed, time.monotonic()):
                self._meters.convictions.inc()
                log.warning("worker %s is dead; its entries are run one by one", convict.worker_id)
            await self.on_beat(beat, sent_at)
        except BrokerUnavailable as error:
            self._convictions.beat_failed()
            self._meters.broker_errors.inc()
            log.warning("the beat failed: %s", error)


async def _nothing(beat: Beat, sent_at: float) -> None:
    pass
