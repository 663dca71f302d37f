"""Processes and sockets: one uvicorn server, or several that share one port."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
import os
import signal
import socket
import tempfile

import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from smartbatch.gateway.app import create_app
from smartbatch.gateway.auth.key_store import KeyStore
from smartbatch.gateway.http.connection import Connection
from smartbatch.shared.errors import StartupError
from smartbatch.shared.settings import Settings

log = logging.getLogger(__name__)

# Connections that the kernel queues until they are accepted.
BACKLOG = 2048
# Number and length of the event loop iterations in which connections are still accepted after SIGTERM.
LAST_ACCEPTS = 3
LAST_ACCEPT_S = 0.05


class Server(uvicorn.Server):
    """uvicorn's server, which also accepts the connections that were established before SIGTERM. Closing a listening
    socket resets those that the process hasn't accepted yet, and a busy process leaves many."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for _ in range(LAST_ACCEPTS):
            await asyncio.sleep(LAST_ACCEPT_S)  # the loop accepts all queued connections per iteration
        await super().shutdown(sockets)


def bind(settings: Settings) -> socket.socket:
    """Return a listening socket for PORT. Raises StartupError, with one clear line."""
    return _bind(settings.host, settings.port, "PORT, --port")


def bind_grpc(settings: Settings) -> socket.socket:
    """Bind GRPC_PORT to check it: gRPC binds it itself, with less helpful errors."""
    return _bind(settings.host, settings.grpc_port, "GRPC_PORT, --grpc-port")


def bind_management(settings: Settings) -> socket.socket | None:
    """Return a listening socket for MANAGEMENT_PORT, or None if it isn't set."""
    if settings.management_port < 0:
        return None
    return _bind(settings.management_host, settings.management_port, "MANAGEMENT_PORT, --management-port")


def _bind(host: str, port: int, how: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)  # now: with SO_REUSEADDR, another process can bind the same port until one listens
    except OSError as error:
        sock.close()
        raise StartupError(f"can't listen on {host}:{port}: {error.strerror}. Choose another port ({how})") from None
    sock.set_inheritable(True)
    return sock


def serve(settings: Settings, sock: socket.socket, management: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT; then stop accepting, finish the requests in flight and return."""
    host, port = sock.getsockname()[:2]
    sockets = [sock, management] if management else [sock]
    settings = with_management_port(settings, management)
    warn_if_open(settings)
    log.info("gateway on http://%s:%d, model %s", host, port, settings.model)
    if settings.gateway_processes == 1:
        run(create_app(settings), settings, sockets)
        return
    _to_environment(settings)
    with tempfile.TemporaryDirectory(prefix="smartbatch-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read by prometheus_client in the processes spawned next
        config = _config("smartbatch.gateway.app:create_app", settings)
        Multiprocess(config, sockets=sockets).run()


def serve_grpc(settings: Settings, sock: socket.socket, management: socket.socket | None = None) -> None:
    """Serve gRPC on the port of `sock` until SIGTERM or SIGINT; then accept no more calls, finish those in flight and
    return.

    The process runs the same application as an HTTP gateway, but only on MANAGEMENT_PORT, if that is set.
    """
    try:
        from smartbatch.gateway.grpc.server import serving
    except ImportError as error:
        raise StartupError(f"gRPC needs additional packages: pip install 'smartbatch-server[grpc]' ({error})") from None
    if settings.gateway_processes > 1:
        raise StartupError("a gRPC gateway runs as one process (GATEWAY_PROCESSES=1); start several on different ports")
    settings = msgspec.structs.replace(settings, grpc_port=sock.getsockname()[1])
    sock.close()
    settings = with_management_port(settings, management)
    warn_if_open(settings, settings.grpc_port)
    app = create_app(settings, lambda services: serving(services, settings))
    run(app, settings, [management] if management else [])


def with_management_port(settings: Settings, management: socket.socket | None) -> Settings:
    """Return the settings with the bound management port, which may have been 0."""
    if management is None:
        return settings
    host, port = management.getsockname()[:2]
    log.info("management on http://%s:%d", host, port)
    return msgspec.structs.replace(settings, management_port=port)


def run(app: ASGIApp, settings: Settings, sockets: list[socket.socket]) -> None:
    """Serve one application in this process until SIGTERM or SIGINT."""
    server = Server(_config(app, settings))
    with _end_on_signals(server):
        server.run(sockets=sockets)


def warn_if_open(settings: Settings, port: int | None = None) -> None:
    """Warn if the gateway is open to anyone on the network. Raises SettingsError if the keys can't be read."""
    if KeyStore.configured(settings):
        if not KeyStore(settings).keys:
            log.warning("API_KEYS_FILE contains no keys, so every request is refused; create one: smartbatch key new")
    elif not _is_loopback(settings.host):
        log.warning(
            "NO API KEYS: anyone who can reach %s:%d can use this gateway. Create a key (`smartbatch key new NAME`) "
            "and set API_KEYS_FILE, or listen only on this machine (HOST=127.0.0.1)",
            settings.host,
            settings.port if port is None else port,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _config(app, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=settings.gateway_processes,
        loop="uvloop",
        http=Connection,
        headers=[("x-content-type-options", "nosniff")],
        backlog=BACKLOG,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, math.ceil(settings.grace_time)),
    )


def _to_environment(settings: Settings) -> None:
    """Pass the settings, including the command line's options, to the processes that will be spawned."""
    for name, value in msgspec.to_builtins(settings).items():
        os.environ[name.upper()] = str(value)


@contextlib.contextmanager
def _end_on_signals(server: Server):
    """End the server on SIGTERM and SIGINT, with exit code 0: uvicorn re-raises the signal after its shutdown. A signal
    that arrives before uvicorn installs its own handlers isn't lost."""

    def end(*_: object) -> None:
        server.should_exit = True

    previous = {name: signal.signal(name, end) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
