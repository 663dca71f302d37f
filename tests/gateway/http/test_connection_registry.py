from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from smartbatch.gateway.http.connection_registry import ConnectionRegistry

SCRIPT = """
import resource, sys
from smartbatch.gateway.http.connection_registry import affordable
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
print(affordable(4096), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "raised_to"),
    [(256, 5000, 4096, 4288), (5000, 5000, 4096, 5000), (256, 256, 64, 256), (256, 1000, 808, 1000)],
)
def test_the_open_files_limit_is_raised_and_bounds_connections(soft: int, hard: int, connections: int, raised_to: int):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(soft), str(hard)], capture_output=True, text=True, check=True, timeout=30
    )
    assert run.stdout.split() == [str(connections), str(raised_to)]
    assert ("ulimit -n" in run.stderr) == (connections < 4096)


class Idle:
    """An idle connection."""

    idle = True
    closed = False
    last_used = 0

    def abort(self) -> None:
        self.closed = True


class Interrupted(Idle):
    """A connection whose inspection takes long, as when the search is interrupted on a busy machine."""

    @property
    def idle(self) -> bool:
        time.sleep(0.002)
        return True


def test_an_interrupted_search_rejects_no_client():
    connection_registry = ConnectionRegistry(16, 30.0, lambda reason: None, lambda error: None)
    flood: list[Any] = [Interrupted() for _ in range(64)]
    assert all(connection_registry.admit(connection) for connection in flood)
    assert [connection.closed for connection in flood] == [True] * 48 + [False] * 16


def test_the_connection_used_last_is_evicted_last():
    connection_registry = ConnectionRegistry(16, 30.0, lambda reason: None, lambda error: None)
    connections: list[Any] = [Idle() for _ in range(16)]
    assert all(connection_registry.admit(connection) for connection in connections)
    connections[0].last_used = 1  # the oldest one that has had a response
    newer: list[Any] = [Idle() for _ in range(15)]
    assert all(connection_registry.admit(connection) for connection in newer)
    assert [connection.closed for connection in connections] == [False] + [True] * 15
