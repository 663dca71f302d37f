"""`smartbatch gateway`"""

from __future__ import annotations

import asyncio

import click

from smartbatch.deploy.options import read_for_server, setting_options


@click.command("gateway")
@click.option("--grpc", is_flag=True, help="Serve gRPC on GRPC_PORT instead of HTTP.")
@setting_options(
    "HOST",
    "PORT",
    "GRPC_PORT",
    "MANAGEMENT_HOST",
    "MANAGEMENT_PORT",
    "API_KEYS_FILE",
    "REDIS_URL",
    "MODEL_PATH",
    "MODEL_NAME",
    "MODEL_VERSION",
    "GATEWAY_PROCESSES",
    "REQUEST_TIMEOUT",
    "MAX_QUEUE",
    "MAX_QUEUE_BYTES",
    "MAX_BODY_BYTES",
    "MAX_RECEIVING_BYTES",
    "MAX_CONNECTIONS",
    "GRACE_TIME",
    "LOG_FORMAT",
    "LOG_LEVEL",
)
def command(grpc: bool, **options: str | None) -> None:
    """Start a gateway: it accepts requests over HTTP or gRPC, queues them in Redis and returns the replies.

    MODEL_NAME, or else MODEL_PATH, names the model that /predict uses by default. Other models are served as soon as a
    worker announces them.
    """
    from smartbatch.gateway.server import bind, bind_grpc, bind_management, serve, serve_grpc
    from smartbatch.shared.broker.connection.check import check
    from smartbatch.shared.telemetry import tracing

    settings = read_for_server(options, "gateway")
    tracing.check()
    sock, management = bind_grpc(settings) if grpc else bind(settings), bind_management(settings)
    asyncio.run(check(settings.broker_url))
    (serve_grpc if grpc else serve)(settings, sock, management)
