"""Processes and sockets: one uvicorn server, or several behind one port."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile

import msgspec
import uvicorn
from uvicorn.supervisors import Multiprocess

from gateway.app import create_app
from shared.errors import StartupError
from shared.settings import Settings

log = logging.getLogger(__name__)


def bind(settings: Settings) -> socket.socket:
    """Return a listening socket's address, bound. Raises StartupError with one clear line if it can't be."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
    except OSError as error:
        sock.close()
        where = f"{settings.host}:{settings.port}"
        raise StartupError(f"can't listen on {where}: {error.strerror}. Choose another port (PORT, --port)") from None
    sock.set_inheritable(True)
    return sock


def serve(settings: Settings, sock: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; then stop accepting, finish what is in flight, return."""
    host, port = sock.getsockname()[:2]
    log.info("gateway on http://%s:%d, model %s", host, port, settings.model)
    if settings.gateway_processes == 1:
        config = _config(create_app(settings), settings)
        with _signals_once_only():
            uvicorn.Server(config).run(sockets=[sock])
        return
    _to_environment(settings)
    with tempfile.TemporaryDirectory(prefix="smartbatch-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read by prometheus_client in the processes spawned next
        config = _config("gateway.app:create_app", settings)
        Multiprocess(config, sockets=[sock]).run()


def _config(app, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=settings.gateway_processes,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, int(settings.grace_time)),
    )


def _to_environment(settings: Settings) -> None:
    """Hand the settings, as they are after the command line, to the processes that will be spawned."""
    for name, value in msgspec.to_builtins(settings).items():
        os.environ[name.upper()] = str(value)


@contextlib.contextmanager
def _signals_once_only():
    """uvicorn raises the signal that ended it again, after its shutdown; a clean end is exit code 0."""
    before = {name: signal.signal(name, lambda *_: None) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
