"""Moves a model's requests to one of its versions step by step, and back if that version is worse than the others.

Each second it reads what gateways counted and judges it, and only then goes on. While the broker is away it waits: it
neither goes on nor gives up. The routing table is the only state. If somebody else changes the table, the promotion
ends there and changes nothing more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import msgspec

from smartbatch.deploy.lookup import Model, snapshot_of
from smartbatch.deploy.rollout.changes import going_back
from smartbatch.deploy.rollout.conditions import Counted, Judge
from smartbatch.deploy.rollout.plan import Plan, Waiting, weights_at
from smartbatch.deploy.rollout.version_stats import VersionStats
from smartbatch.gateway.core.latency_window import merge
from smartbatch.shared.broker.admin import routes
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.errors import BrokerUnavailable, RouteChanged
from smartbatch.shared.keys import ROUTES
from smartbatch.shared.routing import Promotion, RoutingTable

LOOK_S = 1.0
GONE_S = 5.0  # without a ready worker: one that is started again takes a moment


class Progress(Protocol):
    """Shows a promotion to a person."""

    def step(self, plan: Plan, weights: Mapping[int, float]) -> None: ...
    def look(self, plan: Plan, counted: Counted, waiting: Waiting | None) -> None: ...
    def away(self, error: BrokerUnavailable) -> None: ...


class Subject(NamedTuple):
    """What is promoted. `models`: the model's versions, the new one and all that have a weight."""

    connections: Connections
    name: str
    version: int
    models: Mapping[int, Model]


class Start(NamedTuple):
    """How things are when a promotion begins. `before`: the table to go back to. `others`: the weights that the other
    versions have now. `snapshots`: of these and of the new version."""

    table: RoutingTable
    before: RoutingTable
    others: Mapping[int, float]
    snapshots: Mapping[int, Snapshot]


class PromotionRun:
    """One promotion of one model, used by one task."""

    def __init__(self, subject: Subject, start: Start, plan: Plan, judge: Judge, progress: Progress, who: str) -> None:
        self._connections, self._name, self._version, self._models = subject
        self._plan = plan
        self._judge = judge
        self._progress = progress
        self._who = who
        self._table, self._before, self._others, first = start  # _table: as it was written last
        self._stats = {version: VersionStats(first[version]) for version in (self._version, *self._others)}
        self._worked_at = time.monotonic()  # when the new version had a ready worker last
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Have `run` return soon. The weights stay as they are."""
        self._stop.set()

    async def run(self) -> Promotion:
        """Promote, and return how it ended: done, aborted or paused.

        Raises RouteChanged if somebody else changed the table, and BrokerUnavailable if `stop` can't be written.
        """
        await self._begin_step(0, 0)
        while self._promotion.state == "running":
            if await self._stopped_within(LOOK_S):
                what = f"promotion of version {self._version} paused at {self._plan.percent:g} %"
                await self._write(self._with("paused"), what)
                break
            try:
                await self._look()
            except BrokerUnavailable as error:
                self._progress.away(error)
        return self._promotion

    @property
    def _promotion(self) -> Promotion:
        assert self._table.promotion is not None
        return self._table.promotion

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._stop.wait()
        except TimeoutError:
            return False

    # --- each second

    async def _look(self) -> None:
        present = await routes.read(self._connections.of(ROUTES), self._name)
        if present is None or present.revision != self._table.revision:
            raise RouteChanged(f"the routing table of {self._name} was changed by somebody else")
        snapshots = {version: await snapshot_of(self._connections, self._models[version]) for version in self._stats}
        counted, now_s = self._count(snapshots), time.monotonic()
        if snapshots[self._version].ready_workers:
            self._worked_at = now_s
        reason = self._judge.broken(now_s, counted)
        if not reason and now_s - self._worked_at >= GONE_S:
            reason = f"version {self._version} has had no ready worker for {GONE_S:g} s"
        if reason:
            await self._abort(reason)
            return
        requests = sum(counted.new.outcomes.values())
        waiting = self._plan.waiting(now_s, requests)
        self._progress.look(self._plan, counted, waiting)
        if waiting is None and self._plan.is_last:
            await self._write(self._with("done"), f"promotion of version {self._version} done")
        elif waiting is None:
            await self._begin_step(self._plan.number + 1, requests)

    def _count(self, snapshots: Mapping[int, Snapshot]) -> Counted:
        counts = {version: stats.add(snapshots[version]) for version, stats in self._stats.items()}
        return Counted(counts.pop(self._version), merge(counts.values()))

    async def _begin_step(self, number: int, requests: int) -> None:
        weights = weights_at(self._plan.steps[number], self._version, self._others)
        table = msgspec.structs.replace(self._with("running"), weights=weights)
        if table.shadow in weights:  # a version that answers requests gets no copies
            table = msgspec.structs.replace(table, shadow=0)
        await self._write(table, f"promotion of version {self._version}: {self._plan.steps[number]:g} %")
        self._plan.begin_step(number, time.monotonic(), requests)
        self._progress.step(self._plan, weights)

    async def _abort(self, reason: str) -> None:
        table = going_back(self._table, self._before, Promotion(self._version, "aborted", reason))
        await self._write(table, f"promotion of version {self._version} aborted: {reason}")

    # --- the table

    def _with(self, state: str) -> RoutingTable:
        return msgspec.structs.replace(self._table, promotion=Promotion(self._version, state))

    async def _write(self, wanted: RoutingTable, what: str) -> None:
        """Write the table unless somebody else changed it, and try until the broker takes it or `stop`."""

        def replace(present: RoutingTable) -> RoutingTable:
            if _same(present, wanted):  # written already, but the broker's reply was lost
                return present
            if present.revision != self._table.revision:
                raise RouteChanged(f"the routing table of {self._name} was changed by somebody else")
            return wanted

        while True:
            try:
                connection = self._connections.of(ROUTES)
                written = await routes.update(connection, self._name, replace, who=self._who, what=what)
                break
            except BrokerUnavailable as error:
                self._progress.away(error)
                if await self._stopped_within(LOOK_S):
                    raise
        assert written is not None
        self._table = written


def _same(a: RoutingTable, b: RoutingTable) -> bool:
    """Return whether two tables differ in nothing but their revision."""
    return msgspec.structs.replace(a, revision=0) == msgspec.structs.replace(b, revision=0)
