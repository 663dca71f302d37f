"""Signals to a gateway's process."""

from __future__ import annotations

import signal
import socket

import pytest
import uvicorn

from smartbatch.gateway import server
from smartbatch.gateway.app import create_app
from smartbatch.shared.settings import from_environment
from tests.brokers import Broker


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_startup_completes_ends_the_process(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, name: signal.Signals
) -> None:
    serve = uvicorn.Server.run

    def run(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        signal.raise_signal(name)
        serve(self, sockets)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    before = signal.getsignal(name)
    settings = from_environment({"REDIS_URL": broker.url, "MODEL_NAME": "m", "PORT": "0"})
    with server.bind(settings) as sock:
        server.run(create_app(settings), settings, [sock])
    assert signal.getsignal(name) == before
