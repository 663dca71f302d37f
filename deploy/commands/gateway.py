"""`smartbatch gateway`"""

from __future__ import annotations

import asyncio

import click

from deploy.options import read, setting_options


@click.command("gateway")
@setting_options(
    "HOST",
    "PORT",
    "MANAGEMENT_HOST",
    "MANAGEMENT_PORT",
    "API_KEYS_FILE",
    "REDIS_URL",
    "MODEL_PATH",
    "MODEL_NAME",
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
def command(**options: str | None) -> None:
    """Run a gateway: HTTP in, entries on the stream, replies out.

    MODEL names the default model of /predict; other models are served as soon as a worker announces them.
    """
    from gateway.server import bind, bind_management, serve
    from shared import logs
    from shared.broker.connection import check

    settings = read(options)
    logs.set_up(settings.log_format, settings.log_level, "gateway")
    sock, management = bind(settings), bind_management(settings)
    asyncio.run(check(settings.broker_url))
    serve(settings, sock, management)
