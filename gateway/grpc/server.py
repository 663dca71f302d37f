"""The process of `smartbatch gateway --grpc`: a gateway whose requests come by gRPC.

It is the same application as a gateway of HTTP, with the same gateway in it, but of HTTP it serves MANAGEMENT_PORT
alone, and that only if there is one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
from collections.abc import AsyncIterator

import grpc

from smartbatch.gateway.app import create_app
from smartbatch.gateway.grpc.service import handlers
from smartbatch.gateway.http.heads import MAX_HEAD_BYTES
from smartbatch.gateway.server import managed, run, warn_if_open
from smartbatch.gateway.services import GatewayServices
from smartbatch.shared.errors import StartupError
from smartbatch.shared.settings import Settings

log = logging.getLogger(__name__)

# Names, shapes and parameters around the bytes of a tensor.
MESSAGE_OVERHEAD_BYTES = 64 * 1024


def serve(settings: Settings, management: socket.socket | None) -> None:
    """Serve until SIGTERM or SIGINT; then take no more calls, finish what is in flight, return."""
    if settings.gateway_processes > 1:
        raise StartupError("a gRPC gateway runs as one process (GATEWAY_PROCESSES=1); start several on different ports")
    settings = managed(settings, management)
    warn_if_open(settings, settings.grpc_port)
    app = create_app(settings, lambda gateway: _serving(gateway, settings))
    run(app, settings, [management] if management else [])


@contextlib.asynccontextmanager
async def _serving(gateway: GatewayServices, settings: Settings) -> AsyncIterator[None]:
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),  # else a second server would quietly take a part of the calls
            ("grpc.max_receive_message_length", settings.max_body_bytes + MESSAGE_OVERHEAD_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", MAX_HEAD_BYTES),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
        maximum_concurrent_rpcs=settings.max_connections,
    )
    server.add_generic_rpc_handlers((handlers(gateway),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    port = server.add_insecure_port(f"{host}:{settings.grpc_port}")
    await server.start()
    log.info("gRPC gateway on %s:%d, model %s", settings.host, port, settings.model)
    try:
        yield
    finally:
        await server.stop(max(1, math.ceil(settings.grace_time)))
