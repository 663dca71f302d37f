"""Real brokers for the tests: the embedded Valkey always, Debian's redis-server (our floor) where it is installed.

One server of each kind per session, emptied before each test.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis as redis_sync

from deploy import embedded_broker
from shared.broker.connection import Client, connect


class Broker:
    """A broker server of this session's own."""

    def __init__(self, binary: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="smartbatch-test-")
        self.port = embedded_broker.free_port(preferred=0)
        command = embedded_broker.arguments(self.port, self.folder.name)
        self.process = subprocess.Popen([binary, *command[1:]], stdout=subprocess.DEVNULL)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.sync: Any = redis_sync.Redis(port=self.port, protocol=2)
        eventually(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.sync.ping())
        except redis_sync.ConnectionError:
            return False

    def stop(self) -> None:
        self.sync.close()
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


def eventually(condition: Callable[[], Any], timeout_s: float = 10.0, every_s: float = 0.01) -> Any:
    """Wait until `condition()` is true and return its value; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout_s} s: {condition}")
        time.sleep(every_s)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Broker]:
    server = Broker(str(embedded_broker.server_binary()))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Broker]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on PATH (Debian: apt-get install redis-server)")
    server = Broker(binary)
    yield server
    server.stop()


@pytest.fixture
def broker(valkey_server: Broker) -> Broker:
    """The embedded Valkey, empty."""
    valkey_server.sync.flushall()
    return valkey_server


@pytest.fixture(params=["valkey", "redis"])
def any_broker(request: pytest.FixtureRequest) -> Broker:
    """Each kind of broker in turn, empty: for the tests of the protocol itself."""
    server: Broker = request.getfixturevalue(f"{request.param}_server")
    server.sync.flushall()
    server.sync.script_flush()
    return server


@pytest.fixture
async def client(any_broker: Broker):
    client: Client = connect(any_broker.url)
    yield client
    await client.aclose()
