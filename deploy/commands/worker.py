"""`smartbatch worker`"""

from __future__ import annotations

import click

from smartbatch.deploy.options import read_for_server, setting_options


@click.command("worker")
@setting_options(
    "MODEL_PATH",
    "MODEL_NAME",
    "MODEL_WEIGHTS",
    "REPLACE",
    "DEVICE",
    "DEVICE_SHARE",
    "DEVICE_WEIGHT",
    "DTYPE",
    "OPTIMIZE",
    "MAX_BATCH_SIZE",
    "MAX_WAIT_TIME",
    "WINDOW",
    "MAX_BATCH_BYTES",
    "MAX_BATCH_TOKENS",
    "POOL",
    "REDIS_URL",
    "DECODE_THREADS",
    "TORCH_THREADS",
    "METRICS_HOST",
    "METRICS_PORT",
    "MAX_DELIVERIES",
    "STALL_TIMEOUT",
    "GRACE_TIME",
    "LOG_FORMAT",
    "LOG_LEVEL",
)
def command(**options: str | None) -> None:
    """Start a worker: one process that runs one model on one device. Start one worker per device."""
    from smartbatch.shared.telemetry import tracing

    settings = read_for_server(options, "worker")
    tracing.check()
    from smartbatch.worker.process import main

    main(settings)
