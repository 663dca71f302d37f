"""Run docker-compose.yml: the stack, a load on it, and the mark of tests that need a Docker engine."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from smartbatch.deploy.ports import free_ports
from smartbatch.shared.keys import GROUP, Keys
from smartbatch.shared.settings import describe
from smartbatch.worker.models import simulated

ROOT = Path(__file__).parents[2]
KEYS = Keys("simulated")


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
    pytest.mark.timeout(1800),
    pytest.mark.skipif(COMPOSE is None, reason="no Docker engine with compose responds (docker info)"),
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
    """One compose project with its own names, ports and image tags."""

    def __init__(self, folder: Path) -> None:
        self.env_file = folder / "env"
        self.env_file.touch()  # ignores a developer's .env
        first = free_ports(7)
        settings = {row[0] for row in describe()}
        self.env = {key: value for key, value in os.environ.items() if key not in settings} | {
            "GATEWAY_PORTS": f"127.0.0.1:{first}-{first + 3}",
            "MODEL_PATH": "simulated:base_ms=20,row_ms=1",
            "MODEL_PATH_V2": "simulated:base_ms=20,row_ms=1",
            # Kept afterwards: the layer with torch is the next run's build cache.
            "GATEWAY_IMAGE": "smartbatch-gateway:test",
            "WORKER_IMAGE": "smartbatch-worker:test",
            "WORKER_IMAGE_V2": "smartbatch-worker:test",
            "LOADTEST_IMAGE": "smartbatch-loadtest:test",
            "PROMETHEUS_PORTS": f"127.0.0.1:{first + 4}",
            "GRPC_PORTS": f"127.0.0.1:{first + 5}",
            "LOCUST_PORTS": f"127.0.0.1:{first + 6}",
        }
        self.project = f"smartbatch-test-{uuid.uuid4().hex[:8]}"
        assert COMPOSE
        self.command = (*COMPOSE, "-p", self.project, "--env-file", str(self.env_file), "-f", "docker-compose.yml")

    def compose(self, *words: str, check: bool = True) -> str:
        return run(*self.command, *words, env=self.env, check=check)

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
            response = httpx.get(f"{self.urls()[0]}/readyz", timeout=5)
        except httpx.TransportError:
            return 0
        return response.json()["ready_workers"].get("simulated", 0)

    def pending(self) -> int:
        return int(self.redis("XPENDING", KEYS.requests, GROUP).split()[0])

    def waiting(self) -> int:
        return int(self.redis("XLEN", KEYS.requests))


class Load:
    """Closed-loop load: each connection sends its next request after the response to the last one, and checks each."""

    def __init__(self, url: str) -> None:
        self.answered = 0
        self.wrong: list[str] = []
        self._client = httpx.AsyncClient(base_url=url, timeout=60)
        self._progress = asyncio.Condition()
        self._stop = False

    async def one(self, body: bytes) -> None:
        try:
            response = await self._client.post("/predict", content=body)
            ok = response.status_code == 200
            if not ok or response.json()["outputs"]["output"]["data"] != [pytest.approx(simulated.expected(body))]:
                self.wrong.append(f"{response.status_code} {response.text[:300]}")
        except httpx.HTTPError as error:
            self.wrong.append(repr(error))
        async with self._progress:
            self.answered += 1
            self._progress.notify_all()

    async def _connection(self, number: int) -> None:
        for fill_lock in itertools.count():
            if self._stop:
                return
            await self.one(b"%d of connection %d" % (fill_lock, number))

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
        """Wait for `count` more responses."""
        target = self.answered + count
        async with asyncio.timeout(60), self._progress:
            await self._progress.wait_for(lambda: self.answered >= target)


def real(test):
    for mark in needs_engine:
        test = mark(test)
    return test
