"""Fixtures of these tests: a port in use, and the compose stack for tests with a Docker engine."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.deploy.compose import Stack, eventually


@pytest.fixture
def used_port() -> Iterator[int]:
    """A port of loopback that is in use."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


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
    """The stack with one gateway and one ready worker, whatever the previous test left behind."""
    built_stack.up()
    eventually(lambda: built_stack.ready_workers() == 1, 120)
    return built_stack
