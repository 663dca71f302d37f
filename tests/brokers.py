"""A real broker for the tests: a Valkey or Redis server that tests can kill, restart and empty."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import redis as redis_sync
import redis.asyncio

from smartbatch.deploy import embedded_broker
from smartbatch.deploy.ports import free_port
from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection


class Broker:
    """A server of this test session. With `durable` it has an append-only file, as in docker-compose.yml.

    In `options` (of its command line) and in `sync_url` (for the test's own client) {port} stands for its port.
    """

    def __init__(
        self,
        binary: str,
        *options: str,
        durable: bool = False,
        sync_url: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="smartbatch-test-")
        self.port = free_port()
        self._command = [binary, *embedded_broker.arguments(self.port, self.folder.name)[1:]]
        if durable:
            self._command += ["--appendonly", "yes", "--appendfsync", "everysec"]
        self._command += [option.format(port=self.port) for option in options]
        self._environ = {**os.environ, **(environ or {})}
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.sync: Any = redis_sync.Redis.from_url(
            sync_url.format(port=self.port) or self.url, protocol=2, socket_timeout=5
        )
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, env=self._environ)
        eventually(self._responds)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def lose_data(self) -> None:
        """Remove the data that a killed server would load."""
        for file in Path(self.folder.name).rglob("*"):
            if file.is_file():
                file.unlink()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.sync.close()
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    def _responds(self) -> bool:
        try:
            return bool(self.sync.ping())
        except (redis_sync.ConnectionError, redis_sync.BusyLoadingError):
            return False


class Client(MultiplexedConnection):
    """The connection under test. Other attributes are redis-py's, which tests use to inspect the broker."""

    def __init__(self, url: str, *, block_s: float = 0.0) -> None:
        super().__init__(url, block_s=block_s)
        self.redis = redis.asyncio.Redis.from_url(url, protocol=2)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.redis, name)

    async def aclose(self) -> None:
        self.close()
        await self.redis.aclose()


def eventually(condition: Callable[[], Any], timeout_s: float = 10.0, every_s: float = 0.01) -> Any:
    """Wait until `condition()` is true and return its value; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout_s} s: {condition}")
        time.sleep(every_s)
