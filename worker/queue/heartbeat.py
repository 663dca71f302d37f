"""The heartbeat renews the lease, reports the status and observes the leases of other workers.

It runs every half second, whatever the device does.
"""

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

INTERVAL_S = 0.5


class Heartbeat:
    """One long-lived task. It awaits `on_success(result, sent_at)` after each successful heartbeat."""

    def __init__(
        self, leases: Leases, failure_detector: FailureDetector, metrics: WorkerMetrics, status: Callable[[], Mapping]
    ) -> None:
        self._leases = leases
        self._failure_detector = failure_detector
        self._metrics = metrics
        self._status = status
        self.on_success: Callable[[HeartbeatResult, float], Awaitable[None]] = _ignore
        self.loop_alive: Callable[[], None] = lambda: None  # called at every interval, even if the heartbeat failed

    async def run(self) -> None:
        while True:
            await self.send()
            self.loop_alive()
            await asyncio.sleep(INTERVAL_S)

    async def send(self) -> None:
        """Send one now; also called between the regular ones, so that a change of state is visible at once."""
        sent_at = time.monotonic()
        try:
            result = await self._leases.heartbeat(self._status())
            for dead_worker in self._failure_detector.heartbeat_succeeded(result.expired, time.monotonic()):
                self._metrics.dead_workers_found.inc()
                log.warning("worker %s is dead; its entries run one by one", dead_worker.worker_id)
            await self.on_success(result, sent_at)
        except BrokerUnavailable as error:
            self._failure_detector.heartbeat_failed()
            self._metrics.broker_errors.inc()
            log.warning("heartbeat failed: %s", error)


async def _ignore(result: HeartbeatResult, sent_at: float) -> None:
    pass
