"""Fixtures of these tests: a port in use, `smartbatch up`, and the compose stack for tests with a Docker engine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.compose import Stack, eventually
from tests.deploy.up import Up


@pytest.fixture
def used_port() -> Iterator[int]:
    """A port of loopback that is in use."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    made: list[Up] = []

    def start(*options: str, **environ: str) -> Up:
        made.append(Up(tmp_path / f"up-{len(made)}.log", *options, **environ))
        return made[-1]

    yield start
    for each in made:
        each.close()


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
