"""Promotions on a real broker, of versions that report what the test says, with a second shortened to 20 ms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from smartbatch.deploy.lookup import Model, Partition, snapshot_of
from smartbatch.deploy.rollout import promotion as module
from smartbatch.deploy.rollout.conditions import Counted, Judge, parse_condition
from smartbatch.deploy.rollout.plan import Plan, Waiting
from smartbatch.deploy.rollout.promotion import PromotionRun, Start, Subject
from smartbatch.shared.broker.admin import routes
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.errors import BrokerUnavailable, RouteChanged
from smartbatch.shared.keys import ROUTES, model_id
from smartbatch.shared.routing import Promotion, RoutingTable
from tests.brokers import Broker
from tests.deploy.rollout.reports import FakeVersion, counted


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    monkeypatch.setattr(module, "GONE_S", 0.2)


class Shown:
    """What the person at the terminal would see."""

    def __init__(self) -> None:
        self.percents: list[float] = []
        self.waiting: Waiting | None = None
        self.away_since = 0.0
        self.looks = 0

    def step(self, plan: Plan, weights: Mapping[int, float]) -> None:
        self.percents.append(plan.percent)

    def look(self, plan: Plan, counted: Counted, waiting: Waiting | None) -> None:
        self.waiting, self.looks = waiting, self.looks + 1

    def away(self, error: BrokerUnavailable) -> None:
        self.away_since = self.away_since or time.monotonic()


class System:
    """Versions 1 and 2 of the model m, of which version 1 has all the weight."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.connections = Connections(broker.url)
        self.one, self.two = FakeVersion(broker.sync, 1), FakeVersion(broker.sync, 2)
        self.shown = Shown()

    async def promotion(
        self, steps: list[float], *, over_s: float = 0.0, min_requests: int = 0, abort_if: str = "errors>1%"
    ) -> PromotionRun:
        models = {v: Model(model_id("m", v), None, [Partition(model_id("m", v), False)]) for v in (1, 2)}
        snapshots = {v: await snapshot_of(self.connections, model) for v, model in models.items()}
        table = await self.table() or await self.write(RoutingTable({1: 100.0}, shadow=2, shadow_share=0.5))
        start = Start(table, table, {1: 1.0}, snapshots)
        plan, judge = Plan(steps, over_s, min_requests), Judge([parse_condition(abort_if)])
        return PromotionRun(Subject(self.connections, "m", 2, models), start, plan, judge, self.shown, "ann@host")

    async def table(self) -> RoutingTable | None:
        return await routes.read(self.connections.of(ROUTES), "m")

    async def write(self, table: RoutingTable) -> RoutingTable:
        written = await routes.update(self.connections.of(ROUTES), "m", lambda _: table, who="bob@host", what="")
        assert written is not None
        return written

    async def whats(self) -> list[str]:
        return [change.what for change in (await routes.history(self.connections.of(ROUTES), "m", 100))[::-1]]

    async def until_looks(self, more: int) -> None:
        enough = self.shown.looks + more
        async with asyncio.timeout(20):
            while self.shown.looks < enough:
                await asyncio.sleep(0.005)


@pytest.fixture
async def system(any_broker: Broker) -> AsyncIterator[System]:
    system = System(any_broker)
    yield system
    system.connections.close()


@asynccontextmanager
async def running(promotion: PromotionRun) -> AsyncIterator[asyncio.Task[Promotion]]:
    task = asyncio.create_task(promotion.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ends(task: asyncio.Task[Promotion]) -> Promotion:
    async with asyncio.timeout(20):
        return await task


async def test_weights_grow_step_by_step_and_the_history_shows_it(system: System) -> None:
    async with running(await system.promotion([10, 50, 100])) as task:
        assert await ends(task) == Promotion(2, "done")
    assert await system.table() == RoutingTable(
        {2: 100.0}, promotion=Promotion(2, "done"), shadow_share=0.5, revision=5
    )
    assert (await system.whats())[1:] == [
        "promotion of version 2: 10 %",
        "promotion of version 2: 50 %",
        "promotion of version 2: 100 %",
        "promotion of version 2 done",
    ]
    changes = await routes.history(system.connections.of(ROUTES), "m", 10)
    assert [change.after and change.after.weights for change in changes[1:4]] == [
        {2: 100},
        {1: 50, 2: 50},
        {1: 90, 2: 10},
    ]
    assert {change.who for change in changes[:4]} == {"ann@host"}


async def test_a_worse_version_loses_its_requests_and_the_table_says_why(system: System) -> None:
    async with running(await system.promotion([10, 100], over_s=60)) as task:
        for number in (1, 2):
            system.one.report(counted(900 * number))
            system.two.report(counted(90 * number, errors=10 * number))
            await system.until_looks(2)
        system.two.report(counted(270, errors=30))
        ended = await ends(task)
    assert ended.state == "aborted"
    assert ended.reason.startswith("errors>1%: ") and ended.reason.endswith(" of the versions before")
    table = await system.table()
    assert table == RoutingTable({1: 100.0}, shadow=2, shadow_share=0.5, promotion=ended, revision=3)
    assert (await system.whats())[-1] == f"promotion of version 2 aborted: {ended.reason}"


async def test_a_step_waits_for_requests(system: System) -> None:
    async with running(await system.promotion([10, 100], min_requests=20)) as task:
        await system.until_looks(5)
        assert (system.shown.percents, system.shown.waiting) == ([10], Waiting(0.0, 20))
        system.two.report(counted(19))
        await system.until_looks(2)
        assert system.shown.waiting == Waiting(0.0, 1)
        system.two.report(counted(25))
        await system.until_looks(2)
        assert (system.shown.percents, system.shown.waiting) == ([10, 100], Waiting(0.0, 20))
        system.two.report(counted(45))
        assert (await ends(task)).state == "done"


async def test_a_version_that_lost_its_workers_loses_its_requests(system: System) -> None:
    async with running(await system.promotion([10, 100], over_s=60)) as task:
        await system.until_looks(2)
        system.two.work(0)
        assert await ends(task) == Promotion(2, "aborted", "version 2 has had no ready worker for 0.2 s")
    assert (await system.table() or RoutingTable()).weights == {1: 100.0}


async def test_a_worker_that_starts_again_is_no_reason(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GONE_S", 60.0)
    async with running(await system.promotion([10, 100], over_s=60)) as task:
        system.two.work(0)
        await system.until_looks(5)
        system.two.work(1)
        await system.until_looks(5)
        assert not task.done()


async def test_a_table_that_somebody_else_changed_is_left_alone(system: System) -> None:
    async with running(await system.promotion([10, 100], over_s=60)) as task:
        await system.until_looks(2)
        theirs = await system.write(RoutingTable({1: 30.0, 2: 70.0}))
        with pytest.raises(RouteChanged, match="the routing table of m was changed by somebody else"):
            await ends(task)
    assert await system.table() == theirs


async def test_a_deleted_table_is_left_alone(system: System) -> None:
    async with running(await system.promotion([10, 100], over_s=60)) as task:
        await system.until_looks(2)
        await routes.update(system.connections.of(ROUTES), "m", lambda _: None, who="bob", what="--reset")
        with pytest.raises(RouteChanged):
            await ends(task)
    assert await system.table() is None


async def test_a_stopped_promotion_leaves_the_weights_as_they_are(system: System) -> None:
    promotion = await system.promotion([10, 100], over_s=60)
    async with running(promotion) as task:
        await system.until_looks(2)
        promotion.stop()
        assert await ends(task) == Promotion(2, "paused")
    table = await system.table()
    assert table is not None
    assert (table.weights, table.promotion) == ({1: 90.0, 2: 10.0}, Promotion(2, "paused"))
    assert (await system.whats())[-1] == "promotion of version 2 paused at 10 %"


async def test_while_the_broker_is_away_it_waits_and_then_goes_on(system: System) -> None:
    async with running(await system.promotion([10, 50, 100], over_s=3)) as task:
        await system.until_looks(2)
        system.broker.pause()
        try:
            while not system.shown.away_since:
                await asyncio.sleep(0.02)
            percents = list(system.shown.percents)
            await asyncio.sleep(0.2)
            assert system.shown.percents == percents and not task.done()
        finally:
            system.broker.resume()
        assert (await ends(task)).state == "done"
    assert system.shown.percents == [10, 50, 100]


async def test_a_change_that_the_broker_made_without_saying_so_is_no_other_persons(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply of each second write is lost with the connection."""
    change, calls = routes.change, 0

    async def lossy(*args, **kwargs):
        nonlocal calls
        written = await change(*args, **kwargs)
        calls += 1
        if calls % 2 == 0:
            raise BrokerUnavailable("the connection was lost")
        return written

    promotion = await system.promotion([10, 50, 100])
    monkeypatch.setattr(routes, "change", lossy)
    async with running(promotion) as task:
        assert (await ends(task)).state == "done"
    assert calls == 4 and system.shown.away_since
    assert len(await system.whats()) == 5
