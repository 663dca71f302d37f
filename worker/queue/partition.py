"""One partition of the model's queue, as this worker sees it while it has a lease there.

A worker has one home partition. It may have joined others: the one that it helps out, and those that still have to get
the replies to entries claimed there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, MultiplexedConnection
from smartbatch.shared.broker.queue.claims import WorkerQueue
from smartbatch.shared.broker.queue.leases import LEASE_MS, HeartbeatResult, Leases
from smartbatch.shared.errors import BrokerUnavailable, SmartBatchError
from smartbatch.shared.keys import Keys
from smartbatch.shared.process import tasks
from smartbatch.shared.settings import Settings
from smartbatch.worker.execution.decoding import Decoder
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.observability.tracing import Tracing
from smartbatch.worker.queue.entry_tracker import EntryTracker
from smartbatch.worker.queue.failure_detection import MAX_GAP_S, FailureDetector
from smartbatch.worker.queue.heartbeat import Heartbeat
from smartbatch.worker.queue.reply_publisher import ReplyPublisher

log = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 1.0


class Partition:
    """Claims, entries held, replies and lease in one partition. `on_heartbeat(partition, result)` follows each
    heartbeat that succeeded."""

    def __init__(
        self,
        tag: str,
        settings: Settings,
        worker_id: str,
        decoder: Decoder,
        metrics: WorkerMetrics,
        tracing: Tracing | None,
        status: Callable[[], Mapping],
    ) -> None:
        self.keys = keys = Keys(tag)
        self.workers = 2  # that serve this partition; until that is known, this one is taken to be one of several
        url = settings.broker_url
        self.command = MultiplexedConnection(url, keys.requests)
        self._blocking = MultiplexedConnection(url, keys.requests, block_s=BLOCK_S)
        self._lease_connection = MultiplexedConnection(url, keys.leases)  # must not wait behind a large reply
        self.queue = WorkerQueue(
            self._blocking, self.command, keys, worker_id, lease_ms=LEASE_MS, reply_ttl_s=settings.reply_ttl
        )
        self.failure_detector = FailureDetector()
        self.publisher = ReplyPublisher(self.queue, metrics, settings.request_timeout + settings.reply_ttl)
        self.tracker = EntryTracker(self.queue, decoder, self.publisher, metrics, settings.max_deliveries, tracing)
        self._leases = Leases(self._lease_connection, keys, worker_id)
        self.heartbeat = Heartbeat(self._leases, self.failure_detector, metrics, status)
        self.heartbeat.on_success = self._after_heartbeat
        self.on_heartbeat: Callable[[Partition, HeartbeatResult], None] = lambda partition, result: None
        self._leased = asyncio.Event()
        self._last_heartbeat_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    def join(self, spawn: Callable[..., asyncio.Task[None]]) -> None:
        """Begin to renew the lease. Entries may be claimed once there is one."""
        self._tasks = [spawn(self.heartbeat.run()), spawn(self.publisher.run())]

    async def until_leased(self) -> None:
        """Wait for the first heartbeat that succeeds. Raises BrokerUnavailable if none does in time."""
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                await self._leased.wait()
        except TimeoutError:
            raise BrokerUnavailable(f"no heartbeat in {self.keys.tag} within {JOIN_TIMEOUT_S:g} s") from None

    @property
    def reachable(self) -> bool:
        """Whether the lease has been renewed lately."""
        return time.monotonic() - self._last_heartbeat_at < MAX_GAP_S

    @property
    def urgent(self) -> bool:
        """Whether entries need this worker that do not count as waiting: adopted ones, or those of a dead worker."""
        return self.tracker.has_adopted or bool(self.failure_detector.dead_workers)

    async def leave(self, *, free_name: bool = False) -> None:
        """Publish what is left and end the lease. Nothing may be claimed from now on."""
        with contextlib.suppress(SmartBatchError):
            await self.publisher.drain()
        await self.close(free_name=free_name)

    async def close(self, *, free_name: bool = False) -> None:
        """End the lease. The last worker here frees the model's name with `free_name`."""
        await tasks.end(self._tasks)
        with contextlib.suppress(SmartBatchError):
            if left := await self._leases.leave(free_name=free_name):
                log.warning("left %s with %d unfinished entries; other workers will run them", self.keys.tag, left)
        for connection in (self._blocking, self.command, self._lease_connection):
            connection.close()

    async def _after_heartbeat(self, result: HeartbeatResult, sent_at: float) -> None:
        self._last_heartbeat_at = time.monotonic()
        self._leased.set()
        self.workers = result.alive
        lost_claims = self.tracker.audit(result.pending, sent_at)
        if lost_claims:
            await self.tracker.adopt(lost_claims, result.now_ms)
        self.on_heartbeat(self, result)
