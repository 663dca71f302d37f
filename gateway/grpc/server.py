"""Serves gRPC calls, in the process of the HTTP application that provides its services."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import AsyncIterator

import grpc

from smartbatch.gateway.grpc.service import ServiceView, handlers
from smartbatch.gateway.http.heads import MAX_HEAD_BYTES
from smartbatch.shared.settings import Settings

log = logging.getLogger(__name__)

# Allowance for names, shapes and parameters in addition to a tensor's bytes.
MESSAGE_OVERHEAD_BYTES = 64 * 1024


@contextlib.asynccontextmanager
async def serving(services: ServiceView, settings: Settings) -> AsyncIterator[None]:
    """Serve on GRPC_PORT. On exit, accept no more calls and finish those in flight."""
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),  # otherwise a second server would silently receive some of the calls
            ("grpc.max_receive_message_length", settings.max_body_bytes + MESSAGE_OVERHEAD_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", MAX_HEAD_BYTES),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
        maximum_concurrent_rpcs=settings.max_connections,
    )
    server.add_generic_rpc_handlers((handlers(services),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    port = server.add_insecure_port(f"{host}:{settings.grpc_port}")
    await server.start()
    log.info("gRPC gateway on %s:%d, model %s", settings.host, port, settings.model)
    try:
        yield
    finally:
        await server.stop(max(1, math.ceil(settings.grace_time)))
