"""The heartbeat: renew the lease, report, audit what is held, convict the dead. Every half second, whatever the
device does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from smartbatch.shared.broker.queue.leases import HeartbeatResult, Leases
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.queue.failure_detection import FailureDetector

log = logging.getLogger(__name__)

BEAT_S = 0.5


class Heartbeat:
    """One long-lived task. `on_beat(beat, sent_at)` is awaited after each beat that went through."""

    def __init__(
        self, leases: Leases, failure_detector: FailureDetector, metrics: WorkerMetrics, report: Callable[[], Mapping]
    ) -> None:
        self._leases = leases
        self._failure_detector = failure_detector
        self._metrics = metrics
        self._report = report
        self._now = asyncio.Event()
        self.on_beat: Callable[[HeartbeatResult, float], Awaitable[None]] = _nothing
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
            for dead_worker in self._failure_detector.beat_succeeded(beat.lapsed, time.monotonic()):
                self._metrics.failure_detector.inc()
                log.warning("worker %s is dead; its entries are run one by one", dead_worker.worker_id)
            await self.on_beat(beat, sent_at)
        except BrokerUnavailable as error:
            self._failure_detector.beat_failed()
            self._metrics.broker_errors.inc()
            log.warning("the beat failed: %s", error)


async def _nothing(beat: HeartbeatResult, sent_at: float) -> None:
    pass
