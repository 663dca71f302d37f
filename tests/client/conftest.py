"""A server for the client, and a client of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from smartbatch.client import Client
from tests.client.server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, timeout=10) as client:
        yield client
