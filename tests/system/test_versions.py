"""Several versions of a model, each with workers of its own, on real processes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec
import pytest

from smartbatch.shared.keys import ROUTES, Keys
from smartbatch.shared.routing import RoutingTable
from tests.brokers import eventually
from tests.load import Load, assert_all_answered
from tests.system.stack import Process, Stack

FAST = "simulated:base_ms=2,row_ms=0"
Table = Mapping[int, float]


def table(system: Stack, weights: Table, **fields: object) -> None:
    """Set the routing table, and wait until the gateway has read it."""
    written = RoutingTable(weights=dict(weights), **fields)  # type: ignore[arg-type]
    system.broker.sync.hset(ROUTES, "m", msgspec.json.encode(written))
    time.sleep(1.0)  # "within a second"


@pytest.fixture
def system(stack: Callable[..., Stack]) -> Stack:
    """Versions 1 and 2 of the model m, with a worker each."""
    made = stack(MODEL_PATH=FAST, MODEL_NAME="m")
    made.up()
    made.two = made.worker(MODEL_VERSION=2)  # type: ignore[attr-defined]
    return made


def until_ready(system: Stack, *models: str) -> None:
    ready = lambda model: system.client.get(f"{system.url}/readyz").json()["ready_workers"].get(model, 0)  # noqa: E731
    eventually(lambda: all(ready(model) for model in models), 60)


def version_of(system: Stack, query: str = "") -> int:
    response = system.client.post(f"{system.url}/predict{query}", content=b"x")
    assert response.status_code == 200, response.text
    assert response.json()["model"] == "m"
    return response.json()["version"]


def test_without_a_table_the_highest_ready_version_answers(system: Stack) -> None:
    until_ready(system, "m", "m@2")
    assert {version_of(system) for _ in range(20)} == {2}
    assert [version_of(system, query) for query in ("?version=1", "?model=m@1", "?model=m&version=2")] == [1, 1, 2]
    three = system.worker(MODEL_VERSION=3)
    until_ready(system, "m@3")
    eventually(lambda: version_of(system) == 3)
    assert three.stop() == 0
    eventually(lambda: version_of(system) == 2)
    refused = system.client.post(f"{system.url}/predict?version=4", content=b"x")
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_model")
    assert refused.json()["detail"] == "model 'm' has no version 4; available: 1, 2, 3"


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("?version=0", "a version must be a whole number from 1 to 999999999, got '0'"),
        ("?version=two", "a version must be a whole number from 1 to 999999999, got 'two'"),
        ("?model=m@2&version=1", "version: the model is of version 2, got 1"),
        ("?model=n@2", "model 'n' not found; available: m"),
        ("?model=m@", "a version must be a whole number from 1 to 999999999, got ''"),
    ],
)
def test_a_wrong_version_says_what_was_expected(shared: Callable[..., Stack], query: str, detail: str) -> None:
    system = shared(MODEL_PATH=FAST, MODEL_NAME="m")
    refused = system.client.post(f"{system.url}/predict{query}", content=b"x")
    assert refused.status_code in (400, 404)
    assert refused.json()["detail"] == detail


async def shares(system: Stack, requests: int = 2000) -> Counter[int]:
    async with Load(lambda: [system.url], connections=64) as load:
        await load.closed_loop(64, requests)
        assert_all_answered(load.sent)
        return Counter(request.version for request in load.sent)


async def test_shares_follow_the_weights(system: Stack) -> None:
    until_ready(system, "m", "m@2")
    for weights in ({1: 90, 2: 10}, {1: 50, 2: 50}, {2: 1}, {1: 3, 2: 1, 7: 1000}):
        await asyncio.to_thread(table, system, weights)
        total = sum(weights.get(version, 0) for version in (1, 2))
        counts = await shares(system)
        for version in (1, 2):
            assert counts[version] / 2000 == pytest.approx(weights.get(version, 0) / total, abs=0.03)


async def test_a_sticky_header_keeps_a_user_at_a_version(system: Stack) -> None:
    until_ready(system, "m", "m@2")
    await asyncio.to_thread(table, system, {1: 50, 2: 50}, sticky="X-User")
    async with Load(lambda: [system.url], connections=16) as load:
        for _ in range(5):
            for user in range(40):
                load.begin(kind=str(user), headers={"X-User": str(user)})
        await load.finish()
        versions = {user: {r.version for r in load.sent if r.kind == str(user)} for user in range(40)}
    assert all(len(each) == 1 for each in versions.values())
    assert {version for each in versions.values() for version in each} == {1, 2}


async def test_when_all_workers_of_a_version_are_killed_the_other_takes_over(system: Stack) -> None:
    until_ready(system, "m", "m@2")
    await asyncio.to_thread(table, system, {1: 50, 2: 50})
    async with Load(lambda: [system.url]) as load:
        done = asyncio.Event()
        sending = asyncio.create_task(load.open_loop_until(done, 200))
        await asyncio.sleep(2)
        killed_at = time.monotonic()
        two: Process = system.two  # type: ignore[attr-defined]
        two.kill()
        await asyncio.sleep(6)
        done.set()
        await sending
        requests = load.sent
    assert_all_answered(requests)
    slowest = max(request.seconds for request in requests)
    late = [r.sent_at - killed_at for r in requests if r.sent_at > killed_at and r.seconds > 0.5]
    print(f"{len(requests)} requests, the slowest {slowest:.2f} s; slow ones until {max(late, default=0):.2f} s after")
    assert slowest < 4.0
    assert max(late, default=0) < 3.5
    assert {request.version for request in requests if request.sent_at > killed_at + 3.5} == {1}
    eventually(lambda: system.stats("m@2")["queue"]["open"] == 0)


async def test_a_request_for_a_version_without_workers_waits_for_them(system: Stack) -> None:
    until_ready(system, "m", "m@2")
    two: Process = system.two  # type: ignore[attr-defined]
    two.kill()
    waiting = asyncio.create_task(asyncio.to_thread(version_of, system, "?version=2"))
    await asyncio.sleep(3)
    assert not waiting.done()
    system.worker(MODEL_VERSION=2)
    assert await waiting == 2


def test_a_version_being_unloaded_gets_no_requests_and_is_forgotten(system: Stack) -> None:
    until_ready(system, "m", "m@2")
    table(system, {}, draining=(2,))
    assert {version_of(system) for _ in range(10)} == {1}
    refused = system.client.post(f"{system.url}/predict?version=2", content=b"x")
    assert (refused.status_code, refused.json()["detail"]) == (404, "version 2 of model 'm' is being unloaded")
    two: Process = system.two  # type: ignore[attr-defined]
    assert two.stop() == 0
    system.broker.sync.hdel("smartbatch:models", "m@2")
    eventually(lambda: "m@2" not in system.client.get(f"{system.url}/stats").json()["models"])
    refused = system.client.post(f"{system.url}/predict?version=2", content=b"x")
    assert refused.json()["detail"] == "model 'm' has no version 2; available: 1"
    table(system, {}, draining=(1,))
    refused = system.client.post(f"{system.url}/predict", content=b"x")
    assert (refused.status_code, refused.json()["detail"]) == (404, "model 'm' is being unloaded")


async def test_a_shadow_gets_copies_that_are_compared_and_clients_notice_nothing(system: Stack) -> None:
    system.worker(MODEL_VERSION=3, MODEL_PATH="tests.system.version_models:Shifted")
    until_ready(system, "m", "m@2", "m@3")
    await asyncio.to_thread(table, system, {1: 1}, shadow=2)
    assert (await shares(system, 200)) == {1: 200}
    eventually(lambda: sum(shadow_counts(system, "m@2").get(name, 0) for name in ("compared", "skipped")) == 200)
    counts = shadow_counts(system, "m@2")
    assert counts["compared"] > 100
    assert (counts["different"], counts["failed"], counts["largest"]) == (0, 0, 0.0)
    await asyncio.to_thread(table, system, {1: 1}, shadow=3, shadow_share=0.5)
    assert (await shares(system, 200)) == {1: 200}
    eventually(lambda: shadow_counts(system, "m@3")["compared"] + shadow_counts(system, "m@3")["failed"] > 60)
    counts = shadow_counts(system, "m@3")
    assert counts["largest"] == pytest.approx(0.25, abs=1e-6)
    assert 0 < counts["failed"] < 30  # one row in ten raises
    await asyncio.to_thread(table, system, {1: 1})
    eventually(lambda: system.stats("m@3")["queue"]["open"] == 0)


def shadow_counts(system: Stack, model: str) -> dict:
    keys = Keys(model)
    for gateway in system.broker.sync.smembers(keys.gateways):
        if report := system.broker.sync.hget(keys.gateway(gateway.decode()), "shadow"):
            return msgspec.json.decode(report)
    return {"compared": 0, "failed": 0}


async def test_copies_for_a_slow_shadow_are_left_out(system: Stack) -> None:
    system.worker(MODEL_VERSION=3, MODEL_PATH="simulated:base_ms=500,row_ms=100")
    until_ready(system, "m", "m@3")
    await asyncio.to_thread(table, system, {1: 1}, shadow=3)
    assert (await shares(system, 1000)) == {1: 1000}
    eventually(lambda: shadow_counts(system, "m@3").get("skipped", 0) > 800)
