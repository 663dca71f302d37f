"""The system under test: a durable broker behind a proxy, or a cluster, or a primary with Sentinels; gateways, workers,
and a supervisor that restarts them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import time
from pathlib import Path

from tests.brokers import Broker, eventually
from tests.clusters import Servers
from tests.proxy import Proxy
from tests.system.stack import Process, Stack

GATEWAYS = 2
WORKERS = 3
RESTART_AFTER_S = 0.2
MODEL_PATH = "simulated:base_ms=5,row_ms=0.2"
SETTINGS = {
    "MODEL_PATH": MODEL_PATH,
    "STALL_TIMEOUT": 3,  # short, so that a run contains many hangs
    "REPLY_TTL": 5,
    "GRACE_TIME": 45,  # longer than a request may take, as in docker-compose.yml
    "LOG_LEVEL": "info",
}
CHAOTIC = [sys.executable, "-m", "tests.chaos.worker"]


class System:
    """Starts its processes in `start`, ends them in `close`. Faults act on `gateways`, `workers`, `broker`, `proxy`."""

    def __init__(self, broker: Broker | Servers, folder: Path) -> None:
        self.broker = broker
        self.proxy = Proxy(broker.port) if isinstance(broker, Broker) else None  # in front of one server
        url = self.proxy.url if self.proxy else broker.url
        self.stack = Stack(broker, folder, **SETTINGS, REDIS_URL=url)
        self.gateways: list[Process] = []
        self.workers: list[Process] = []
        self.restarts = 0
        self.killed_gateways: list[tuple[str, float]] = []  # (url, when)
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def servers(self) -> Servers:
        """The broker, if it is several servers."""
        assert isinstance(self.broker, Servers)
        return self.broker

    async def start(self) -> None:
        for _ in range(GATEWAYS):
            self.gateways.append(await asyncio.to_thread(self.stack.gateway))
        for _ in range(WORKERS):
            self.workers.append(self._worker())
        await asyncio.to_thread(self.stack.ready, WORKERS)
        self._supervisor = asyncio.create_task(self._supervise())

    def urls(self) -> list[str]:
        """Return the gateways to which a load balancer would send."""
        return [gateway.url for gateway in self.gateways] or [self.stack.url]

    async def kill_gateway(self, rng: random.Random) -> None:
        gateway = rng.choice(self.gateways)
        self.killed_gateways.append((gateway.url, time.monotonic()))
        self.gateways.remove(gateway)
        gateway.kill()
        await self._add_gateway()

    async def restart_gateway(self, rng: random.Random) -> None:
        """Restart a gateway as a rolling restart does: remove it from the balancer, then send SIGTERM."""
        gateway = rng.choice(self.gateways)
        self.gateways.remove(gateway)
        code = await asyncio.to_thread(gateway.stop, signal.SIGTERM, 60)
        assert code == 0, f"a gateway ended with {code}:\n{gateway.log.read_text()[-2000:]}"
        await self._add_gateway()

    async def _add_gateway(self) -> None:
        """Start a gateway. It exits if there is no broker, so retry until it keeps running."""
        while True:
            await asyncio.sleep(RESTART_AFTER_S)
            with contextlib.suppress(AssertionError):
                self.gateways.append(await asyncio.to_thread(self.stack.gateway))
                return

    async def _supervise(self) -> None:
        """Restart workers that ended, as docker compose and `smartbatch up` do."""
        while True:
            for worker in [worker for worker in self.workers if worker.popen.poll() is not None]:
                self.workers.remove(worker)
                self.restarts += 1
                self.workers.append(self._worker())
            await asyncio.sleep(RESTART_AFTER_S)

    async def until_ready(self) -> None:
        self.stack.url = self.gateways[0].url
        await asyncio.to_thread(eventually, lambda: self.stack.ready_workers() >= WORKERS, 30, 0.1)

    def _worker(self) -> Process:
        return self.stack.start("worker", {}, CHAOTIC)

    async def close(self) -> None:
        if self._supervisor:
            self._supervisor.cancel()
        if self.proxy:
            self.proxy.flow()
        if isinstance(self.broker, Broker):
            self.broker.resume()
        await asyncio.to_thread(self.stack.close)
        if self.proxy:
            self.proxy.close()
