"""docker-compose.yml brought up for real, where a Docker engine runs; test_compose_file.py reads the file.

Builds both images, so the first run takes minutes. The worker serves the simulated model: no weights.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from gateway.live import page
from shared.keys import GROUP, Keys
from shared.settings import describe
from tests.deploy.test_compose_file import load
from worker.models import simulated

ROOT = Path(__file__).parents[2]
KEYS = Keys("simulated")
GATEWAY_LIMIT_BYTES = 250_000_000
PYTHON_SERVICES = ("gateway", "worker")


def compose_command() -> list[str] | None:
    """`docker compose` if the plugin is there, else `docker-compose`; None without an engine."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        return None
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], capture_output=True).returncode:
            return command
    return None


COMPOSE = compose_command()
needs_engine = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(COMPOSE is None, reason="no Docker engine with compose answers here (docker info)"),
]


def run(*command: str, check: bool = True, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8", errors="backslashreplace")
    assert not check or done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def eventually(condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {timeout_s} s: {condition}"
        time.sleep(0.1)
    return value


class Stack:
    """One compose project with names, ports and image tags of its own."""

    def __init__(self, folder: Path) -> None:
        (folder / "env").touch()  # a developer's .env is not for the tests
        first = free_ports(7)
        settings = {row[0] for row in describe()}
        self.env = {key: value for key, value in os.environ.items() if key not in settings} | {
            "GATEWAY_PORTS": f"127.0.0.1:{first}-{first + 3}",
            "MODEL_PATH": "simulated:base_ms=20,row_ms=1",
            # Kept afterwards: the layer with torch is the next run's build cache.
            "GATEWAY_IMAGE": "smartbatch-gateway:test",
            "WORKER_IMAGE": "smartbatch-worker:test",
            "LOADTEST_IMAGE": "smartbatch-loadtest:test",
            "PROMETHEUS_PORTS": f"127.0.0.1:{first + 4}",
            "GRPC_PORTS": f"127.0.0.1:{first + 5}",
            "LOCUST_PORTS": f"127.0.0.1:{first + 6}",
        }
        project = f"smartbatch-test-{uuid.uuid4().hex[:8]}"
        assert COMPOSE
        self._command = (*COMPOSE, "-p", project, "--env-file", str(folder / "env"), "-f", "docker-compose.yml")

    def compose(self, *words: str, check: bool = True) -> str:
        return run(*self._command, *words, env=self.env, check=check)

    def up(self, **scale: int) -> None:
        words = itertools.chain.from_iterable(("--scale", f"{name}={count}") for name, count in scale.items())
        self.compose("up", "-d", "--no-build", *words)

    def redis(self, *words: str) -> str:
        return self.compose("exec", "-T", "redis", "redis-cli", *words)

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def inspect(self, container: str) -> dict[str, Any]:
        return json.loads(run("docker", "inspect", container))[0]

    def urls(self) -> list[str]:
        ports = [
            self.inspect(container)["NetworkSettings"]["Ports"]["8000/tcp"] for container in self.containers("gateway")
        ]
        return [f"http://127.0.0.1:{bound[0]['HostPort']}" for bound in ports]

    def ready_workers(self) -> int:
        try:
            answer = httpx.get(f"{self.urls()[0]}/readyz", timeout=5)
        except httpx.TransportError:
            return 0
        return answer.json()["ready_workers"].get("simulated", 0)

    def pending(self) -> int:
        return int(self.redis("XPENDING", KEYS.requests, GROUP).split()[0])

    def waiting(self) -> int:
        return int(self.redis("XLEN", KEYS.requests))


def free_ports(count: int) -> int:
    """Return the first of `count` ports in a row that are free now."""
    for first in range(18000, 60000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as sock:
                    sock.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def built_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("compose"))
    stack.compose("build")
    try:
        yield stack
    finally:
        print(stack.compose("logs", "--no-color", "--tail=100", check=False))  # shown by pytest if a test failed
        stack.compose("down", "-v", "--remove-orphans", check=False)


@pytest.fixture
def stack(built_stack: Stack) -> Stack:
    """The stack with one gateway and one ready worker, whatever the test before left behind."""
    built_stack.up()
    eventually(lambda: built_stack.ready_workers() == 1, 120)
    return built_stack


class Load:
    """Closed-loop load: each connection sends its next request when the last is answered, and checks each answer."""

    def __init__(self, url: str) -> None:
        self.answered = 0
        self.wrong: list[str] = []
        self._client = httpx.AsyncClient(base_url=url, timeout=60)
        self._progress = asyncio.Condition()
        self._stop = False

    async def one(self, body: bytes) -> None:
        try:
            answer = await self._client.post("/predict", content=body)
            ok = answer.status_code == 200
            if not ok or answer.json()["outputs"]["output"]["data"] != [pytest.approx(simulated.expected(body))]:
                self.wrong.append(f"{answer.status_code} {answer.text[:300]}")
        except httpx.HTTPError as error:
            self.wrong.append(repr(error))
        async with self._progress:
            self.answered += 1
            self._progress.notify_all()

    async def _connection(self, number: int) -> None:
        for turn in itertools.count():
            if self._stop:
                return
            await self.one(b"%d of connection %d" % (turn, number))

    @classmethod
    @asynccontextmanager
    async def running(cls, stack: Stack, connections: int = 8):
        load = cls(stack.urls()[0])
        async with load._client, asyncio.TaskGroup() as group:
            for number in range(connections):
                group.create_task(load._connection(number))
            try:
                yield load
            finally:
                load._stop = True
        assert load.answered > 0
        assert load.wrong == []

    async def more(self, count: int) -> None:
        """Wait until `count` more requests have been answered."""
        target = self.answered + count
        async with asyncio.timeout(60), self._progress:
            await self._progress.wait_for(lambda: self.answered >= target)


def real(test):
    for mark in needs_engine:
        test = mark(test)
    return test


@real
async def test_workers_scale_up_and_down_under_load_and_no_request_fails(stack):
    async with Load.running(stack) as load:
        await load.more(100)
        for workers in (3, 1):
            await asyncio.to_thread(stack.up, worker=workers)
            await asyncio.to_thread(eventually, lambda: stack.ready_workers() == workers)  # noqa: B023
            await load.more(200)
    assert len(stack.containers("worker")) == 1


@real
async def test_redis_cli_shows_the_work_and_idle_means_empty(stack):
    async with Load.running(stack):
        await asyncio.to_thread(eventually, lambda: stack.pending() > 0)
        stream = await asyncio.to_thread(stack.redis, "XINFO", "STREAM", KEYS.requests)
        groups = await asyncio.to_thread(stack.redis, "XINFO", "GROUPS", KEYS.requests)
    assert "groups\n1\n" in stream
    assert f"name\n{GROUP}\nconsumers\n1\n" in groups
    eventually(lambda: stack.waiting() == 0 and stack.pending() == 0)
    assert stack.redis("--scan", "--pattern", KEYS.body("*")) == ""
    eventually(lambda: stack.redis("--scan", "--pattern", KEYS.reply("*")) == "", 10)


@real
async def test_a_reply_waits_under_its_own_key_with_a_time_to_live(stack):
    (gateway,), (worker,) = stack.containers("gateway"), stack.containers("worker")
    load = Load(stack.urls()[0])
    async with load._client:
        run("docker", "pause", worker)  # so that the request is still on the stream when the gateway stands still
        request = asyncio.create_task(load.one(b"the paused one"))
        try:
            await asyncio.to_thread(eventually, lambda: stack.waiting() == 1)
            run("docker", "pause", gateway)
            run("docker", "unpause", worker)
            key = await asyncio.to_thread(eventually, lambda: stack.redis("--scan", "--pattern", KEYS.reply("*")))
            assert 0 < int(stack.redis("TTL", key)) <= 60
        finally:
            run("docker", "unpause", worker, check=False)
            run("docker", "unpause", gateway, check=False)
        await request
    assert load.wrong == []
    eventually(lambda: stack.redis("EXISTS", key) == "0", 10)


@real
async def test_entries_of_a_killed_worker_are_answered_by_another(stack):
    await asyncio.to_thread(stack.up, worker=2)
    await asyncio.to_thread(eventually, lambda: stack.ready_workers() == 2)
    victim = stack.containers("worker")[0]
    async with Load.running(stack) as load:
        await asyncio.to_thread(eventually, lambda: paused_while_holding_entries(stack, victim))
        await asyncio.to_thread(run, "docker", "kill", victim)
        await load.more(200)
    eventually(lambda: stack.waiting() == 0 and stack.pending() == 0)


@real
async def test_worker_that_dies_is_restarted(stack):
    (worker,) = stack.containers("worker")
    async with Load.running(stack) as load:
        await load.more(50)
        await asyncio.to_thread(run, "docker", "exec", worker, "sh", "-c", "kill -9 -1", check=False)
        await asyncio.to_thread(eventually, lambda: stack.inspect(worker)["RestartCount"] == 1)
        await load.more(200)


@real
def test_containers_are_healthy_unprivileged_and_read_only(stack):
    for service in ("redis", *PYTHON_SERVICES):
        (container,) = stack.containers(service)
        eventually(lambda: stack.inspect(container)["State"]["Health"]["Status"] == "healthy")  # noqa: B023
        assert "read-only" in in_container(container, "touch /somewhere 2>&1").lower()
    for service in PYTHON_SERVICES:
        (container,) = stack.containers(service)
        assert in_container(container, "id -u") == "10001"
        assert in_container(container, "grep CapEff /proc/self/status").split()[1] == "0" * 16
        assert in_container(container, "touch /tmp/x && echo written") == "written"


@real
def test_gateway_image_is_small_and_has_no_torch(stack):
    (gateway,) = stack.containers("gateway")
    assert all(httpx.get(f"{stack.urls()[0]}{path}").status_code == 200 for path in page.FILES)
    assert "No module named 'torch'" in in_container(gateway, "python -c 'import torch' 2>&1")
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)", (ROOT / "deploy/docker/gateway.Dockerfile").read_text(), re.M)
    assert base
    sizes = [
        run("docker", "image", "inspect", "-f", "{{.Size}}", image, check=False)
        for image in (stack.env["GATEWAY_IMAGE"], base[1])
    ]
    if not sizes[1]:
        pytest.skip("the base image is not in the engine's own store, so its size is unknown")
    assert int(sizes[0]) - int(sizes[1]) < GATEWAY_LIMIT_BYTES


@real
async def test_two_gateways_answer_on_two_ports(stack):
    await asyncio.to_thread(stack.up, gateway=2)
    urls = stack.urls()
    assert len(set(urls)) == 2
    for url in urls:
        await asyncio.to_thread(eventually, lambda: ready(url))  # noqa: B023
        load = Load(url)
        async with load._client:
            await asyncio.gather(*(load.one(b"%d to %s" % (n, url.encode())) for n in range(20)))
        assert load.wrong == []


@real
def test_prometheus_finds_every_gateway_and_loads_the_alerts(stack):
    """Grafana is left out: its image can't be had where only package registries are. system/test_prometheus.py runs
    what it would ask."""
    image = load()["services"]["prometheus"]["image"]
    if not run("docker", "image", "inspect", image, check=False) and not run("docker", "pull", image, check=False):
        pytest.skip(f"{image} can't be had here")
    stack.up(gateway=2)
    try:
        stack.compose("up", "-d", "--no-build", "prometheus")
        url = f"http://{stack.env['PROMETHEUS_PORTS']}/api/v1"
        up = 'sum(up{job="smartbatch"})'
        eventually(lambda: value_of(url, up) == 2)
        eventually(lambda: value_of(url, "max(smartbatch_workers{state='ready'})") == 1)
        (group,) = httpx.get(f"{url}/rules").json()["data"]["groups"]
        assert len(group["rules"]) > 10
        (container,) = stack.containers("prometheus")
        eventually(lambda: stack.inspect(container)["State"]["Health"]["Status"] == "healthy")
    finally:
        stack.compose("rm", "-fs", "prometheus", check=False)


@real
def test_the_profile_grpc_answers_a_triton_client(stack):
    stack.compose("--profile", "grpc", "up", "-d", "--no-build", "grpc")
    try:
        (container,) = stack.containers("grpc")
        eventually(lambda: stack.inspect(container)["State"]["Health"]["Status"] == "healthy")
        with InferenceServerClient(stack.env["GRPC_PORTS"]) as client:
            eventually(client.is_server_ready)
            sent = InferInput("input", [1], "BYTES")
            sent.set_data_from_numpy(np.array([b"by gRPC"], np.object_))
            answer = client.infer("simulated", [sent])
        assert answer is not None
        output = answer.as_numpy("output")
        assert output is not None
        assert output.ravel().tolist() == pytest.approx(simulated.expected(b"by gRPC"))
    finally:
        stack.compose("rm", "-fs", "grpc", check=False)


@real
def test_the_profile_loadtest_loads_the_stack_and_finds_every_answer_right(stack):
    profile = ("--profile", "loadtest")
    stack.compose(*profile, "build", "locust")
    try:
        stack.compose(*profile, "up", "-d", "--no-build", "--scale", "locust-worker=2", "locust", "locust-worker")
        page = f"http://{stack.env['LOCUST_PORTS']}"
        eventually(lambda: len(statistics(page).get("workers", [])) == 2)
        asked = {"user_count": 8, "spawn_rate": 8, "host": "http://gateway:8000"}
        assert httpx.post(f"{page}/swarm", data=asked).json()["success"]
        eventually(lambda: total_of(page)["num_requests"] > 100)
        httpx.get(f"{page}/stop")
        assert total_of(page)["num_failures"] == 0
        (container,) = stack.containers("locust")
        eventually(lambda: stack.inspect(container)["State"]["Health"]["Status"] == "healthy")
    finally:
        stack.compose(*profile, "rm", "-fs", "locust", "locust-worker", check=False)


def statistics(page: str) -> dict[str, Any]:
    try:
        return httpx.get(f"{page}/stats/requests").json()
    except httpx.TransportError:
        return {}


def total_of(page: str) -> dict[str, Any]:
    return next(entry for entry in statistics(page)["stats"] if entry["name"] == "Aggregated")


@real
async def test_stopping_answers_what_is_in_flight_and_every_process_ends_cleanly(stack):
    containers = [*stack.containers("gateway"), *stack.containers("worker")]
    (worker,) = stack.containers("worker")
    load = Load(stack.urls()[0])
    async with load._client:
        run("docker", "pause", worker)
        requests = [asyncio.create_task(load.one(b"%d in flight" % n)) for n in range(16)]
        await asyncio.to_thread(eventually, lambda: stack.waiting() == 16)
        stopping = asyncio.create_task(asyncio.to_thread(stack.compose, "stop"))
        await asyncio.to_thread(eventually, lambda: not ready(str(load._client.base_url)))  # it accepts no more
        run("docker", "unpause", worker)
        await asyncio.gather(*requests, stopping)
    assert load.wrong == []
    assert [stack.inspect(container)["State"]["ExitCode"] for container in containers] == [0, 0]


def paused_while_holding_entries(stack: Stack, worker: str) -> bool:
    """Freeze the worker; if it holds nothing just then, let it go on and return False."""
    run("docker", "pause", worker)
    consumers = stack.redis("XPENDING", KEYS.requests, GROUP)
    if worker[:12] in consumers:  # a worker's id starts with its host name, which is the container's short id
        return True
    run("docker", "unpause", worker)
    return False


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url.rstrip('/')}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def value_of(url: str, query: str) -> float | None:
    try:
        answer = httpx.get(f"{url}/query", params={"query": query}, timeout=5).json()
    except httpx.TransportError:
        return None
    return next((float(series["value"][1]) for series in answer["data"]["result"]), None)


def in_container(container: str, script: str) -> str:
    return run("docker", "exec", container, "sh", "-c", script, check=False)
