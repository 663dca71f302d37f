"""GET /healthz, /readyz and /stats, from the latest snapshots of the system monitor."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from smartbatch.gateway.core.response_types import Health, Readiness, Stats
from smartbatch.gateway.monitoring.model_view import describe
from smartbatch.gateway.monitoring.system_monitor import SystemMonitor

JSON = "application/json"
HEALTHY = msgspec.json.encode(Health())


async def healthz(request: Request) -> Response:
    """Respond with 200 while the process is alive."""
    return Response(HEALTHY, media_type=JSON)


async def readyz(request: Request) -> Response:
    """Respond with 200 if Redis is reachable and every served model has a ready worker, otherwise 503."""
    monitor: SystemMonitor = request.app.state.gateway.monitor
    ok = monitor.ready
    body = Readiness(ok, "up" if monitor.broker_up else "down", monitor.ready_workers)
    return Response(msgspec.json.encode(body), 200 if ok else 503, media_type=JSON)


async def stats(request: Request) -> Response:
    """Return rates, latencies, queue, workers and gateways of every model as JSON."""
    monitor: SystemMonitor = request.app.state.gateway.monitor
    models = {model: describe(snapshot) for model, snapshot in monitor.snapshots.items()}
    body = Stats("up" if monitor.fresh else "down", models)
    return Response(msgspec.json.encode(body), media_type=JSON)
