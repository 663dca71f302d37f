"""A whole rollout under load: load version 2, a canary, all traffic, unload version 1, and back to one loaded again."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.brokers import Broker
from tests.deploy.test_model_command import Control
from tests.deploy.up import ROOT, Up
from tests.load import Load, SentRequest, assert_all_answered, percentile

MODEL = "simulated:base_ms=10,row_ms=0.1"


@pytest.fixture
def control(broker: Broker, up: Callable[..., Up]) -> Iterator[Control]:
    yield Control(broker, up)


@pytest.mark.extended
@pytest.mark.timeout(300)
async def test_a_rollout_and_its_way_back_fail_no_request(control: Control) -> None:
    system = await asyncio.to_thread(lambda: control.up("--model", f"m={MODEL}", OPTIMIZE="none").ready())
    until = asyncio.Event()
    async with Load(lambda: [system.url], connections=64) as load:
        await asyncio.to_thread(smartbatch, control, "route", "m", "1=100")
        clients = asyncio.gather(*(client(load, until) for _ in range(64)))
        requests_before = await during(load, 5)
        p99_before = percentile([r.seconds for r in requests_before], 99)
        gateway_before = percentile([r.gateway_s for r in requests_before], 99)

        async def step(*words: str, shares: dict[int, float]) -> None:
            began = time.monotonic()
            await asyncio.to_thread(smartbatch, control, *words)
            changing = [r for r in load.sent if r.done_at > began]
            await asyncio.sleep(1.0)  # gateways read the table
            after = await during(load, 0, requests=2000)
            counts = Counter(request.version for request in after)
            p99 = percentile([r.seconds for r in after], 99)
            took = percentile([r.seconds for r in changing], 99)
            in_gateway = percentile([r.gateway_s for r in changing], 99)
            print(
                f"{' '.join(words)}: {dict(counts)}, p99 meanwhile {1000 * took:.0f} ms, in the gateway "
                f"{1000 * in_gateway:.0f} ms; {1000 * p99:.0f} ms after"
            )
            for version, share in shares.items():
                assert counts[version] / len(after) == pytest.approx(share, abs=0.03)
            assert p99 <= 2 * p99_before
            assert in_gateway <= 2 * gateway_before  # the clients share their cores with what the command starts

        print(f"p99 {1000 * p99_before:.0f} ms before, in the gateway {1000 * gateway_before:.0f} ms")
        await step("model", "load", "m@2", "--path", MODEL, shares={1: 1.0})
        await step("route", "m", "1=90", "2=10", shares={1: 0.9, 2: 0.1})
        await step("route", "m", "1=50", "2=50", shares={1: 0.5, 2: 0.5})
        await step("route", "m", "2=100", shares={2: 1.0})
        await step("model", "unload", "m@1", shares={2: 1.0})
        await step("model", "load", "m@1", "--path", MODEL, shares={2: 1.0})
        await step("route", "m", "1=100", shares={1: 1.0})
        await step("model", "unload", "m@2", shares={1: 1.0})
        until.set()
        await clients
        assert_all_answered(load.sent)
        print(f"{len(load.sent)} requests, the slowest {max(r.seconds for r in load.sent):.2f} s")


async def client(load: Load, until: asyncio.Event) -> None:
    while not until.is_set():
        await load.send()


async def during(load: Load, seconds: float, requests: int = 0) -> list[SentRequest]:
    """Return the requests that are sent and answered from now on, for some seconds and until there are so many."""
    first = len(load.sent)
    await asyncio.sleep(seconds)
    while len(load.sent) < first + requests + 64:
        await asyncio.sleep(0.05)
    return [request for request in load.sent[first:] if request.done_at]


def smartbatch(control: Control, *words: str) -> None:
    command = [*control.command()[:-1], *words]
    ended = subprocess.run(command, env=control.environ, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
