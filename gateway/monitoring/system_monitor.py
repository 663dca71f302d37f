"""The observer: what the whole system looks like, read from Redis every half second.

/readyz, /stats and /metrics answer from the last look, so scraping never adds to the broker's load and a handler
never waits for Redis. It also tells the others what this gateway process sees.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence

from smartbatch.gateway.core.latency_window import pack
from smartbatch.gateway.queue.model_queue import ModelQueue
from smartbatch.shared import counts
from smartbatch.shared.broker.admin import registry
from smartbatch.shared.broker.admin.registry import Snapshot, number
from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection
from smartbatch.shared.broker.queue.admission import UNKNOWN, Capacity
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.settings import Settings

log = logging.getLogger(__name__)

LOOK_S = 0.5
REPORT_EVERY = 2  # looks
STALE_S = 3.0


class SystemMonitor:
    """One long-lived task per gateway process."""

    def __init__(self, settings: Settings, gateway_id: str, queues: Mapping[str, ModelQueue]) -> None:
        self._connection = MultiplexedConnection(settings.broker_url)
        self._default = settings.model
        self._gateway_id = gateway_id
        self._queues = queues
        self._started_ms = int(time.time() * 1000)
        self._looked_at = 0.0
        self.models: dict[str, ModelInfo] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self._capacities: dict[str, Capacity] = {}
        self._unreadable: set[str] = set()

    @property
    def fresh(self) -> bool:
        """Whether Redis answered lately."""
        return time.monotonic() - self._looked_at < STALE_S

    def capacity(self, model: str) -> Capacity:
        """What the model's ready workers can do together, as of the last look."""
        return self._capacities.get(model, UNKNOWN)

    async def run(self) -> None:
        looks = 0
        while True:
            try:
                await self._look()
                if looks % REPORT_EVERY == 0:
                    await self._report()
                looks += 1
            except BrokerUnavailable as error:
                log.warning("looking at the broker failed: %s", error)
            except Exception:  # what others wrote on the broker must not end it
                log.exception("looking at the broker failed")
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        models = await registry.models(self._connection)
        names = {self._default, *models, *self._queues}
        self.snapshots = snapshots = await self._look_at(sorted(names))
        self._capacities = {name: _capacity(snapshot) for name, snapshot in snapshots.items()}
        self.models |= models  # what Redis has lost is announced again within a beat; it isn't unknown till then
        self._looked_at = time.monotonic()

    async def _look_at(self, models: Sequence[str]) -> dict[str, Snapshot]:
        """One whose keys hold what isn't ours is left out, and hides no other."""
        snapshots, failed = {}, None
        for model in models:
            try:
                snapshots[model] = await registry.snapshot(self._connection, model)
            except Exception as error:
                failed = error
                if model not in self._unreadable:
                    log.warning("looking at the model %s failed: %s", model, error)
        self._unreadable = set(models) - snapshots.keys()
        if failed and not snapshots:
            raise failed
        return snapshots

    async def _report(self) -> None:
        for queue in list(self._queues.values()):
            report = {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started_ms": self._started_ms,
                "in_flight": len(queue.outstanding),
                "recent": pack(queue.metrics.recent.summary()),
                counts.FIELD: counts.encode(queue.metrics.counts()),
            }
            await registry.report_gateway(self._connection, queue.keys, self._gateway_id, report)

    async def close(self) -> None:
        try:
            for queue in self._queues.values():
                await registry.forget_gateway(self._connection, queue.keys, self._gateway_id)
        except BrokerUnavailable as error:
            log.warning("leaving without a word: %s", error)
        self._connection.close()


def _capacity(snapshot: Snapshot) -> Capacity:
    reports = [snapshot.workers[worker_id] for worker_id in snapshot.ready_workers]
    return Capacity.of(
        (number(report.get("capacity_rows_per_s")) for report in reports),
        (number(report.get("batch_full_s")) for report in reports),
        len(snapshot.gateways),
    )
