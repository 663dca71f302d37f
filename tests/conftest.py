"""Real brokers for the tests: the embedded Valkey, and Debian's redis-server (the oldest one supported) if installed.

Each session has one server of each kind, which is emptied before each test.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from smartbatch.deploy import embedded_broker
from tests.brokers import Broker, Client

# A shell's background job ignores Ctrl-C, and processes that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Broker]:
    server = Broker(str(embedded_broker.server_binary()))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Broker]:
    server = Broker(binary("redis"))
    yield server
    server.stop()


def binary(kind: str) -> str:
    if kind == "valkey":
        return str(embedded_broker.server_binary())
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server on PATH (Debian: apt-get install redis-server)")
    return found


# `make test` uses one kind of broker, `make test-all` both.
KINDS = ["valkey", pytest.param("redis", marks=pytest.mark.extended)]


@pytest.fixture(scope="module", params=KINDS)
def durable_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Each kind of broker in turn, one per module and with an append-only file, to be killed and restarted."""
    server = Broker(binary(request.param), durable=True)
    yield server
    server.stop()


@pytest.fixture
def broker(valkey_server: Broker) -> Broker:
    """The embedded Valkey, empty."""
    valkey_server.sync.flushall()
    return valkey_server


@pytest.fixture(params=KINDS)
def any_broker(request: pytest.FixtureRequest) -> Broker:
    """Each kind of broker in turn, empty, for tests of the protocol."""
    server: Broker = request.getfixturevalue(f"{request.param}_server")
    server.sync.flushall()
    server.sync.script_flush()
    return server


@pytest.fixture
async def client(any_broker: Broker) -> AsyncIterator[Client]:
    client = Client(any_broker.url)
    yield client
    await client.aclose()
