"""`smartbatch worker`"""

from __future__ import annotations

import click

from smartbatch.deploy.models.entry import MODEL_SETTINGS
from smartbatch.deploy.options import read_for_server, setting_options


@click.command("worker")
@setting_options(*MODEL_SETTINGS, "REDIS_URL", "METRICS_HOST", "LOG_FORMAT", "LOG_LEVEL")
def command(**options: str | None) -> None:
    """Start a worker: one process that runs one model on one device. Start one worker per device."""
    from smartbatch.shared.telemetry import tracing

    settings = read_for_server(options, "worker")
    tracing.check()
    from smartbatch.worker.process import main

    main(settings)
