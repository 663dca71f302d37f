"""The worker's /metrics endpoint, for Prometheus and health checks."""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, start_http_server

from smartbatch.shared.errors import StartupError
from smartbatch.shared.settings import Settings

log = logging.getLogger(__name__)


def serve_metrics(registry: CollectorRegistry, settings: Settings) -> int:
    """Serve in a thread. Returns the port, or -1 for METRICS_PORT=-1. Raises StartupError if the port is in use."""
    if settings.metrics_port < 0:
        return -1
    try:
        server, _ = start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        raise StartupError(f"METRICS_PORT: can't listen on {where}: {error.strerror}") from None
    log.info("metrics on http://%s:%d/metrics", settings.metrics_host, server.server_port)
    return server.server_port
