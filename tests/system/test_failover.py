"""Primaries of a cluster, and one that Sentinels watch, are killed, paused, demoted and restarted under load.

Whatever happens, every request has one outcome: the correct response, or a 503 that says when to come back. No request
that is sent a second after the takeover fails, and nothing of ours is restarted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.brokers import eventually
from tests.clusters import Servers
from tests.conftest import binary
from tests.load import Load
from tests.server_faults import (
    Fault,
    demoted,
    killed,
    paused,
    restarted_empty,
    restarted_one_by_one,
    without_replicas,
)
from tests.system.stack import Stack

RATE = 100.0
RECOVERED_S = 1.0

KINDS = [
    pytest.param((kind, server), marks=pytest.mark.extended if server == "redis" else (), id=f"{kind}-{server}")
    for kind in ("cluster", "sentinel")
    for server in ("valkey", "redis")
]


@pytest.fixture(params=KINDS)
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    kind, server = request.param
    servers = Servers(kind, binary(server))
    yield servers
    servers.stop()


@pytest.fixture
def system(servers: Servers, tmp_path: Path) -> Iterator[Stack]:
    system = Stack(cast(Any, servers), tmp_path, MODEL_PATH="simulated:base_ms=20,row_ms=1", REPLY_TTL=3)
    yield system.up(2)
    system.close()


# During how many seconds requests may be rejected.
FAULTS: dict[Fault, float] = {
    killed: 6.0,
    paused: 6.0,
    demoted: 0.5,
    restarted_empty: 3.5,  # a node of a cluster that starts waits two seconds
    without_replicas: 0.0,
    restarted_one_by_one: 0.5,
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_no_request_is_lost_when_primaries_change(system: Stack, servers: Servers, fault: Fault) -> None:
    await outlives(system, servers, fault, FAULTS[fault])


@pytest.mark.parametrize("servers", [kind for kind in KINDS if "cluster" in str(kind.id)], indirect=True)
async def test_no_request_is_lost_when_the_slot_of_a_model_moves(system: Stack, servers: Servers) -> None:
    async def moved(servers: Servers) -> float:
        for _ in range(3):
            before = servers.primary()
            await asyncio.to_thread(servers.move_slot)
            await asyncio.to_thread(eventually, lambda before=before: servers.primary() is not before)
        return time.monotonic()

    await outlives(system, servers, moved, 2.0)


async def outlives(system: Stack, servers: Servers, fault: Fault, rejected_s: float) -> None:
    async with Load(lambda: [system.url]) as load:
        done = asyncio.Event()
        sending = asyncio.create_task(load.open_loop_until(done, RATE))
        await asyncio.sleep(1)
        began_at = time.monotonic()
        back_at = await fault(servers)
        await asyncio.to_thread(servers.until_healed)
        await asyncio.sleep(RECOVERED_S + 0.5)
        done.set()
        await sending
        requests = load.sent
    others = [request for request in requests if request.status != 200]
    print(
        f"{len(requests)} requests, {len(others)} rejected, back after {back_at - began_at:.2f} s, last rejected "
        f"{max((r.sent_at for r in others), default=back_at) - back_at:+.2f} s after that; slowest "
        f"{max(r.seconds for r in requests if r.status == 200):.2f} s; "
        f"{system.counter('smartbatch_readmissions_total'):g} readmitted"
    )
    assert all(request.correct for request in requests if request.status == 200)
    assert {(request.status, request.code) for request in others} <= {(503, "broker_unavailable")}
    assert all(request.retry_after for request in others)
    assert len({request.request_id for request in requests}) == len(requests)
    assert len(others) <= rejected_s * RATE
    assert not [request for request in others if request.sent_at > back_at + RECOVERED_S]
    assert all(process.popen.poll() is None for process in system.processes)
    assert system.client.get(f"{system.url}/readyz").json()["ready"]
    assert system.counter("smartbatch_dead_workers_found_total") == 0
    await asyncio.to_thread(system.until_clean, 2)
