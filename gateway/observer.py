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

from gateway.counted import pack_parts
from gateway.lane import Lane
from gateway.recent import pack
from shared.broker import registry
from shared.broker.admission import UNKNOWN, Capacity
from shared.broker.connection import connect
from shared.broker.registry import Snapshot, number
from shared.errors import BrokerUnavailable
from shared.model_info import ModelInfo
from shared.settings import Settings

log = logging.getLogger(__name__)

LOOK_S = 0.5
REPORT_EVERY = 2  # looks
STALE_S = 3.0


class Observer:
    """One long-lived task per gateway process."""

    def __init__(self, settings: Settings, gateway_id: str, lanes: Mapping[str, Lane]) -> None:
        self._client = connect(settings.broker_url)
        self._default = settings.model
        self._gateway_id = gateway_id
        self._lanes = lanes
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
        models = await registry.models(self._client)
        names = {self._default, *models, *self._lanes}
        self.snapshots = snapshots = await self._look_at(sorted(names))
        self._capacities = {name: _capacity(snapshot) for name, snapshot in snapshots.items()}
        self.models |= models  # what Redis has lost is announced again within a beat; it isn't unknown till then
        self._looked_at = time.monotonic()

    async def _look_at(self, models: Sequence[str]) -> dict[str, Snapshot]:
        """One whose keys hold what isn't ours is left out, and hides no other."""
        snapshots, failed = {}, None
        for model in models:
            try:
                snapshots[model] = await registry.snapshot(self._client, model)
            except Exception as error:
                failed = error
                if model not in self._unreadable:
                    log.warning("looking at the model %s failed: %s", model, error)
        self._unreadable = set(models) - snapshots.keys()
        if failed and not snapshots:
            raise failed
        return snapshots

    async def _report(self) -> None:
        for lane in list(self._lanes.values()):
            report = {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started_ms": self._started_ms,
                "in_flight": len(lane.outstanding),
                "recent": pack(lane.meters.recent.summary()),
                "parts": pack_parts(*lane.meters.parts()),
            }
            await registry.report_gateway(self._client, lane.keys, self._gateway_id, report)

    async def close(self) -> None:
        try:
            for lane in self._lanes.values():
                await registry.forget_gateway(self._client, lane.keys, self._gateway_id)
        except BrokerUnavailable as error:
            log.warning("leaving without a word: %s", error)
        await self._client.aclose()


def _capacity(snapshot: Snapshot) -> Capacity:
    reports = [snapshot.workers[worker_id] for worker_id in snapshot.ready_workers]
    return Capacity.of(
        (number(report.get("capacity_rows_per_s")) for report in reports),
        (number(report.get("batch_full_s")) for report in reports),
        len(snapshot.gateways),
    )
