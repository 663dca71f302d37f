"""`smartbatch route`, `promote` and `rollback` on a running system."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from smartbatch.deploy.rollout.conditions import WARM_UP_S
from smartbatch.shared import routing
from smartbatch.shared.keys import ROUTES
from smartbatch.shared.routing import RoutingTable
from tests.brokers import eventually
from tests.load import Load
from tests.system.stack import COMMAND, ROOT, Stack

QUICK = "simulated:base_ms=20,row_ms=0"
# On a busy machine a request may take 0.2 s more.
SLOW = "simulated:base_ms=200,row_ms=0"
THREE_TIMES_SLOWER = "simulated:base_ms=600,row_ms=0"
RATE = 100.0  # requests per second


def smartbatch(system: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, arguments[0], "--redis-url", system.broker.url, *arguments[1:]]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)


def table(system: Stack) -> RoutingTable:
    return routing.decode(system.broker.sync.hget(ROUTES, "m") or b"{}")


def route(system: Stack) -> dict[int, dict]:
    """What `smartbatch route` shows of each version."""
    shown = json.loads(smartbatch(system, "route", "m", "--json").stdout)
    return {each["version"]: each for each in shown["versions"]}


def start(stack: Callable[..., Stack], path: str = QUICK, second: str = QUICK, module: str = "") -> Stack:
    """Start a gateway and two versions of the model m, of which the first gets all requests."""
    system = stack(MODEL_NAME="m", MODEL_PATH=path, MAX_WAIT_TIME=0)
    system.gateway()
    system.worker()
    system.ready()
    assert smartbatch(system, "route", "m", "1=100").returncode == 0
    command = [sys.executable, "-m", module] if module else ()
    system.start("worker", {"MODEL_VERSION": 2, "MODEL_PATH": second}, command)
    eventually(lambda: 2 in (versions := route(system)) and versions[2]["ready_workers"] == 1, 60, 0.2)
    return system


@asynccontextmanager
async def traffic(system: Stack, rate: float = RATE) -> AsyncIterator[Load]:
    done = asyncio.Event()
    async with Load(lambda: [system.url]) as load:
        sending = asyncio.create_task(load.open_loop_until(done, rate))
        try:
            yield load
        finally:
            done.set()
            await sending


class Promotion:
    """`smartbatch promote` as a process. `aborted_at`: when its table was back."""

    def __init__(self, system: Stack, *options: str) -> None:
        self.process = system.start("promote", {}, [*COMMAND, "promote", "m", "2", *options])

    async def ends(self, timeout_s: float = 60.0) -> tuple[int, str]:
        """Return its exit code and its output."""
        code = await asyncio.to_thread(self.process.popen.wait, timeout_s)
        return code, self.process.log.read_text()


async def until(condition: Callable[[], bool], timeout_s: float) -> float:
    """Wait for a condition beside the load, and return when it was true."""
    await asyncio.to_thread(eventually, condition, timeout_s, 0.1)
    return time.monotonic()


async def test_a_healthy_version_gets_all_requests_in_the_end(stack: Callable[..., Stack]) -> None:
    system = start(stack)
    async with traffic(system) as load:
        code, output = await Promotion(system, "--over", "12s", "--steps", "10,50,100").ends()
        assert code == 0, output
    assert [line for line in output.splitlines() if line.startswith("step")] == [
        "step 1 of 3: 10 % to version 2 (1=90 2=10)",
        "step 2 of 3: 50 % to version 2 (1=50 2=50)",
        "step 3 of 3: 100 % to version 2 (2=100)",
    ]
    assert set(load.statuses()) == {200} and all(request.correct for request in load.sent)
    assert (table(system).weights, table(system).promotion) == ({2: 100.0}, routing.Promotion(2, "done"))
    eventually(lambda: 'smartbatch_route_weight{model="m",version="2"} 1.0' in system.metrics())
    assert smartbatch(system, "rollback", "m").stdout == "m: 1=100\n"
    assert table(system).weights == {1: 100.0}
    history = smartbatch(system, "route", "m", "--history").stdout.splitlines()[1:]
    assert [line.split()[0] for line in history] == ["6", "5", "4", "3", "2", "1"]


@pytest.mark.extended
@pytest.mark.timeout(900)
async def test_twenty_promotions_of_a_healthy_version_are_all_done(stack: Callable[..., Stack]) -> None:
    system = start(stack)
    async with traffic(system) as load:
        for _ in range(20):
            code, output = await Promotion(system, "--over", "15s", "--steps", "10,30,60,100").ends()
            assert code == 0, output
            assert await asyncio.to_thread(lambda: smartbatch(system, "rollback", "m").returncode) == 0
    assert set(load.statuses()) == {200}


@pytest.mark.parametrize(
    ("first", "second", "module", "condition"),
    [
        pytest.param(QUICK, QUICK, "tests.system.failing_worker", "errors>1%", id="one request in twenty fails"),
        pytest.param(SLOW, THREE_TIMES_SLOWER, "", "p99>1.5x", id="three times slower"),
    ],
)
async def test_a_worse_version_is_left_within_seconds(
    stack: Callable[..., Stack], first: str, second: str, module: str, condition: str
) -> None:
    system = start(stack, first, second, module)
    before = table(system)
    async with traffic(system):
        promotion = Promotion(system, "--over", "90s", "--steps", "40,60,100")
        began_at = await until(lambda: table(system).weights == {1: 60.0, 2: 40.0}, 20)
        left_at = await until(lambda: table(system).weights == before.weights, 30)
        code, output = await promotion.ends()
    assert code == 1
    assert f"smartbatch: promotion of m to version 2 aborted: {condition}: " in output
    now = table(system).promotion
    assert now is not None and (now.version, now.state) == (2, "aborted") and now.reason.startswith(condition)
    assert left_at - began_at < 10 + WARM_UP_S
    aborted = 'smartbatch_promotion_aborted{model="m",version="2"} 1.0'
    eventually(lambda: aborted in system.metrics())
    assert smartbatch(system, "route", "m", "1=100").returncode == 0
    eventually(lambda: aborted not in system.metrics())


async def test_a_version_whose_worker_is_killed_is_left(stack: Callable[..., Stack]) -> None:
    system = start(stack)
    async with traffic(system) as load:
        promotion = Promotion(system, "--over", "90s", "--steps", "40,60,100")
        await until(lambda: table(system).weights == {1: 60.0, 2: 40.0}, 20)
        await asyncio.sleep(1)
        system.processes[2].kill()
        code, output = await promotion.ends()
    assert (code, table(system).weights) == (1, {1: 100.0})
    assert "aborted: version 2 has had no ready worker for 5 s" in output
    assert set(load.statuses()) == {200}  # requests of the killed worker went to the other version


@pytest.mark.parametrize("signal_", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.extended)])
async def test_an_interrupted_promotion_leaves_the_weights_and_says_how_to_go_on(
    stack: Callable[..., Stack], signal_: signal.Signals
) -> None:
    system = start(stack)
    promotion = Promotion(system, "--over", "90s", "--steps", "40,60,100")
    await until(lambda: table(system).weights == {1: 60.0, 2: 40.0}, 20)
    promotion.process.popen.send_signal(signal_)
    code, output = await promotion.ends()
    assert code == 130
    assert output.splitlines()[-1] == (
        "paused; the weights stay as they are. `smartbatch promote m 2` goes on, `smartbatch rollback m` goes back"
    )
    assert (table(system).weights, table(system).promotion) == ({1: 60.0, 2: 40.0}, routing.Promotion(2, "paused"))
    assert smartbatch(system, "rollback", "m").stdout == "m: 1=100\n"
