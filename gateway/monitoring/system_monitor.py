"""Reads the state of the whole system from Redis every half second, and reports this gateway's own state.

/readyz, /stats and /metrics use the last read, so scrapes add no load to the broker and no handler waits for Redis.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import chain
from typing import TypeVar

import msgspec

from smartbatch.gateway.core.latency_window import pack
from smartbatch.gateway.core.metrics import ShadowCounts
from smartbatch.gateway.monitoring.known_models import KnownModels
from smartbatch.gateway.queue.model_queue import ModelQueue
from smartbatch.shared.broker.admin import launchers, registry, routes
from smartbatch.shared.broker.admin.launchers import Launcher
from smartbatch.shared.broker.admin.registry import Snapshot, number
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.broker.connection.primary import primaries
from smartbatch.shared.broker.queue.admission import Capacity
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.keys import LAUNCHERS, MODELS, ROUTES, Keys, model_id, partition_tag, split_model_id
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.partitions import SlotRange, partitions_of
from smartbatch.shared.routing import RoutingTable
from smartbatch.shared.settings import Settings
from smartbatch.shared.telemetry import counts

log = logging.getLogger(__name__)

T = TypeVar("T")

INTERVAL_S = 0.5
REPORT_EVERY = 2  # reads
UNUSED_EVERY = 8  # reads, of models that no gateway gets requests for
ABSENT_EVERY = 40  # of those without workers; a worker that starts is announced, and read at once
NO_COPIES = ShadowCounts()
GATEWAYS_PER_READ = 40  # so many read a model's state every time; twice as many every second time, …
MOST_BETWEEN = 3  # reads, however many gateways there are
SPREAD_S = 0.01  # from one partition's read to the next: to parse the reports of 100 processes takes a millisecond
STALE_S = 3.0
TIMEOUT_S = 0.7  # of each call: what is known must not get stale because one of several brokers does not answer


class SystemMonitor:
    """One long-lived task per gateway process."""

    def __init__(self, settings: Settings, gateway_id: str, queues: Mapping[str, ModelQueue]) -> None:
        self._connections = Connections(settings.broker_url)
        self._settings = settings
        self._default = settings.model_id
        self._slots: list[list[SlotRange]] = []  # of each primary of a cluster
        self._gateway_id = gateway_id
        self._queues = queues
        self._started_ms = int(time.time() * 1000)
        self._read_at = 0.0
        self._reading = asyncio.Lock()  # so that no read ends after a later one and overwrites what that has found
        self.known = KnownModels()
        self.models: dict[str, ModelInfo] = self.known.infos
        self._reads = 0
        self.snapshots: dict[str, Snapshot] = {}  # by model ID: all its partitions together
        self.on_read: Callable[[], None] = lambda: None
        self.capacities: dict[str, Capacity] = {}  # by tag: of each partition's ready workers together
        self._last_known: dict[str, Capacity] = {}  # the last of each model that had a rate
        self._unreadable: set[str] = set()

    @property
    def fresh(self) -> bool:
        """Whether Redis has answered within the last STALE_S."""
        return time.monotonic() - self._read_at < STALE_S

    @property
    def broker_up(self) -> bool:
        return self.fresh and all(queue.broker_up for queue in self._queues.values())

    @property
    def model_names(self) -> list[str]:
        """The IDs of the known versions of models, whether or not they have a ready worker."""
        default = [] if split_model_id(self._default)[0] in self.known.versions else [self._default]
        return sorted([*self.models, *default])

    def versions(self, name: str) -> list[int]:
        """Return the known versions of a model in ascending order. The default model accepts requests before its first
        worker is up; they wait in its queue."""
        default_name, default_version = split_model_id(self._default)
        return self.known.versions.get(name) or [default_version] * (name == default_name)

    def default_version(self, name: str) -> int:
        """Return the version of a known model that gets most of the requests that name none."""
        versions = self.versions(name)
        table = self.known.tables.get(name) or RoutingTable()
        ready = [version for version in versions if self.is_ready(model_id(name, version))]
        shares = table.shares(ready) or table.shares(versions) or {max(ready or versions): 1.0}
        return max(shares, key=lambda version: (shares[version], version))

    @property
    def ready_workers(self) -> dict[str, int]:
        """The number of ready workers of each model."""
        return {model: len(snapshot.ready_workers) for model, snapshot in self.snapshots.items()}

    @property
    def ready(self) -> bool:
        """Whether Redis is reachable and every model that has a queue here has a ready worker, of any version."""
        ready = {split_model_id(model)[0] for model in self.snapshots if self.is_ready(model)}
        return self.broker_up and all(queue.name in ready for queue in self._queues.values())

    def is_ready(self, model: str) -> bool:
        """Whether a model ID has a ready worker."""
        snapshot = self.snapshots.get(model)
        return snapshot is not None and bool(snapshot.ready_workers)

    def may_answer(self, model: str) -> bool:
        """Whether a model ID has a worker that answers requests, or that may have one: unless it was read, nothing is
        known of it."""
        snapshot = self.snapshots.get(model)
        if snapshot is None:
            return True
        return any(report.get("state") in ("ready", "draining") for report in snapshot.workers.values())

    def partitions(self, model: str) -> Sequence[int]:
        """Return the numbers of a model's partitions: those that its workers announced, or else will announce."""
        info = self.models.get(model)
        return info.partitions if info else partitions_of(model, self._slots, self._settings.partitions)

    def backlog_s(self, snapshot: Snapshot) -> float:
        """Return how long one worker would need for all that waits or runs, at the rate that admission counts on.

        Without a worker the last known rate counts. While none is known, any entry is a second of work, so that an
        autoscaler starts one worker.
        """
        known = self._last_known.get(snapshot.model)
        if known is None:
            return float(snapshot.open_rows > 0)
        return known.cost(snapshot.open_rows, snapshot.open_bytes) * known.workers / known.rows_per_s

    async def run(self) -> None:
        while True:
            try:
                async with self._reading:
                    await self._read()
                if self._reads % REPORT_EVERY == 0:
                    await self._report()
                self._reads += 1
            except BrokerUnavailable as error:
                log.warning("reading the system's state failed: %s", error)
            except Exception:  # unexpected data on the broker must not end this task
                log.exception("reading the system's state failed")
            await asyncio.sleep(INTERVAL_S)

    async def refresh(self) -> None:
        """Read the state of everything now. Raises BrokerUnavailable."""
        async with self._reading:
            await self._read(everything=True)

    async def _read(self, *, everything: bool = False) -> None:
        changed = await self._read_known()
        self._slots = await primaries(self._settings.broker_url).slots()
        names = sorted({self._default, *self.models, *self._queues})
        due = [name for n, name in enumerate(names) if everything or name in (changed or ()) or self._is_due(name, n)]
        tags = {name: [partition_tag(name, n) for n in self.partitions(name)] for name in due}
        parts = await self._snapshots([*chain.from_iterable(tags.values())])
        if changed is None and not parts:
            raise BrokerUnavailable("neither the list of models nor the state of one was read")
        self._take_over(names, tags, parts)
        for name, queue in self._queues.items():
            if name in self.snapshots and (
                gateways := self.snapshots[name].gateways
            ):  # none while their broker is away
                queue.set_rank(sum(other < self._gateway_id for other in gateways), len(gateways))
            queue.set_partitions(self.partitions(name))
        self._read_at = time.monotonic()
        self.on_read()

    async def launchers(self) -> list[Launcher]:
        """Return the launchers that run now. Raises BrokerUnavailable."""
        return await _in_time(launchers.find(self._connections.of(LAUNCHERS)))

    async def _read_known(self) -> set[str] | None:
        """Read what is announced, and the routing tables. Returns the model IDs that are new or have changed; None if
        that could not be read."""
        connections = self._connections
        try:
            models = await _in_time(registry.models(connections.of(MODELS)))
            tables = await _in_time(routes.tables(connections.of(ROUTES)))
        except BrokerUnavailable as error:  # on a cluster the models' own nodes may still answer
            log.warning("reading the list of models failed: %s", error)
            return None
        return self.known.update(models, tables)

    def _is_due(self, model: str, n: int) -> bool:
        """Whether the state of the nth model is to be read now. Models that nobody uses are read less often, not all at
        the same time: a gateway may know hundreds. So are those that many gateways read."""
        snapshot = self.snapshots.get(model)
        if snapshot is None:
            return True
        if snapshot.gateways or snapshot.open_requests or model in self._queues:
            every = read_every(len(snapshot.gateways))
        else:
            every = UNUSED_EVERY if snapshot.workers else ABSENT_EVERY
        return (self._reads + n) % every == 0

    def _take_over(
        self, names: Sequence[str], tags: Mapping[str, Sequence[str]], parts: Mapping[str, Snapshot]
    ) -> None:
        """Take over the snapshots of partitions. `names`: all model IDs. `tags`: the partitions of those that were
        read."""
        for name, its_tags in tags.items():
            if parts.keys().isdisjoint(its_tags):
                self.snapshots.pop(name, None)
            else:
                found = [parts.get(tag) or Snapshot.unreachable(tag) for tag in its_tags]
                self.snapshots[name] = Snapshot.together(name, found)
        gone = self.snapshots.keys() - set(names)
        for name in gone:
            del self.snapshots[name]
            self._last_known.pop(name, None)
        self.snapshots = dict(sorted(self.snapshots.items()))
        for tag in list(self.capacities):
            if (name := tag.partition(":")[0]) in tags or name in gone:
                del self.capacities[tag]
        self.capacities.update((tag, self._capacity_of(snapshot)) for tag, snapshot in parts.items())
        for name in tags.keys() & self.snapshots.keys():
            if (capacity := self._capacity_of(self.snapshots[name])).rows_per_s:
                self._last_known[name] = capacity

    async def _snapshots(self, tags: Sequence[str]) -> dict[str, Snapshot]:
        """Read the snapshots of partitions: those of the models that have a queue here shortly one after the other, the
        others, which have few reports, together. One that can't be read is left out."""
        snapshots, failed = {}, None
        used = [tag for tag in tags if Keys(tag).model in self._queues]
        after_s = {tag: n * SPREAD_S for n, tag in enumerate(used)}
        reads = (self._snapshot(tag, after_s.get(tag, 0.0)) for tag in tags)
        for tag, read in zip(tags, await asyncio.gather(*reads, return_exceptions=True), strict=True):
            if isinstance(read, Snapshot):
                snapshots[tag] = read
                continue
            failed = read
            if tag not in self._unreadable:
                log.warning("reading the state of %s failed: %s", tag, failed)
        self._unreadable = set(tags) - snapshots.keys()
        if failed and not snapshots:
            raise failed
        return snapshots

    async def _snapshot(self, tag: str, after_s: float) -> Snapshot:
        await asyncio.sleep(after_s)
        return await _in_time(registry.snapshot(self._connections.of(Keys(tag).requests), tag))

    async def _report(self) -> None:
        """Report this process to the first partition of each model: to read the reports of many gateways in every
        partition would cost the brokers a tenth of their time."""
        reports = []
        for queue in list(self._queues.values()):
            report = {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started_ms": self._started_ms,
                "in_flight": len(queue.outstanding),
                "recent": pack(queue.metrics.recent.summary()),
                "minute": pack(queue.metrics.recent.minute()),
                "total": pack(queue.metrics.recent.total),
                counts.FIELD: counts.encode(queue.metrics.counts()),
            }
            if queue.metrics.shadow != NO_COPIES:
                report["shadow"] = msgspec.json.encode(queue.metrics.shadow)
            keys = Keys(queue.model)
            call = registry.report_gateway(self._connections.of(keys.gateways), keys, self._gateway_id, report)
            reports.append(_in_time(call))
        failures = [each for each in await asyncio.gather(*reports, return_exceptions=True) if each]
        if failures and len(failures) == len(reports):
            raise failures[0]

    async def close(self) -> None:
        for queue in self._queues.values():
            keys = Keys(queue.model)
            try:
                await _in_time(registry.remove_gateway(self._connections.of(keys.gateways), keys, self._gateway_id))
            except BrokerUnavailable as error:
                log.warning("this gateway could not be deregistered: %s", error)
        self._connections.close()

    def _capacity_of(self, snapshot: Snapshot) -> Capacity:
        """Return the capacity of the ready workers that claim from a partition, or from any of several."""
        reports = [snapshot.workers[worker_id] for worker_id in snapshot.ready_workers]
        if not snapshot.parts:
            reports = [each for each in reports if number(each.get("partition")) == snapshot.partition]
        info = self.models.get(snapshot.model)
        return Capacity.of(
            (number(report.get("capacity_rows_per_s")) for report in reports),
            (number(report.get("batch_full_s")) for report in reports),
            len(self.snapshots[snapshot.model].gateways),
            ((number(report.get("row_bytes")), number(report.get("bytes_share"))) for report in reports),
            info.start_s if info else 0.0,
        )


def read_every(gateways: int) -> int:
    """Return at which of its reads each of so many gateways reads the state of a model: at every one, or less often, so
    that reading takes no more of the brokers' time the more gateways there are."""
    return min(MOST_BETWEEN, max(1, round(gateways / GATEWAYS_PER_READ)))


async def _in_time(call: Awaitable[T]) -> T:
    """Await a call for at most TIMEOUT_S. Raises BrokerUnavailable."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await call
    except TimeoutError:
        raise BrokerUnavailable(f"no reply within {TIMEOUT_S:g} s") from None
