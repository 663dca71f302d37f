"""A port that was chosen stays free until its server has started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from smartbatch.deploy import ports
from smartbatch.deploy.ports import free_port, free_ports
from smartbatch.shared.errors import StartupError


def test_the_preferred_port_is_chosen_if_it_is_free(used_port: int) -> None:
    free = free_port()
    assert free_port(preferred=free) == free
    assert free_port(preferred=used_port) != used_port


def test_no_outgoing_connection_uses_a_chosen_port(used_port: int) -> None:
    chosen = {free_port() for _ in range(200)}
    assert len(chosen) > 150  # two searches at the same time seldom choose the same port
    with socket.create_connection(("127.0.0.1", used_port)) as client:
        assert max(chosen) < client.getsockname()[1]


def test_consecutive_ports_are_all_free() -> None:
    first = free_ports(7)
    for port in range(first, first + 7):
        socket.create_server(("127.0.0.1", port)).close()  # also if closed connections of other tests are in TIME_WAIT


def test_consecutive_ports_never_include_one_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_ports(3)
    monkeypatch.setattr(ports.random, "randrange", lambda *_: first)
    assert free_ports(3) == first
    with socket.create_server(("127.0.0.1", first + 1)), pytest.raises(StartupError, match="no free port"):
        free_ports(3)


@pytest.mark.parametrize("words", [None, "1024\t65000\n"])
def test_ports_are_found_whatever_the_kernels_ephemeral_range(
    words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "range"
    if words:
        where.write_text(words)
    monkeypatch.setattr(ports, "RANGE", where)
    assert ports.LOWEST <= free_port() < ports.OUTGOING
