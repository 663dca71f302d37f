"""GET /healthz, /readyz, /stats: all from the observer's last look; and /openapi.json."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from smartbatch.gateway.core.response_types import Health, Readiness, Stats
from smartbatch.gateway.monitoring.model_view import describe
from smartbatch.gateway.services import GatewayServices

JSON = "application/json"
HEALTHY = msgspec.json.encode(Health())


async def healthz(request: Request) -> Response:
    """The process answers."""
    return Response(HEALTHY, media_type=JSON)


async def readyz(request: Request) -> Response:
    """Redis is reachable and every model served has a worker that is ready."""
    gateway: GatewayServices = request.app.state.gateway
    ok = gateway.ready
    body = Readiness(ok, "up" if gateway.broker_up else "down", gateway.ready_workers)
    return Response(msgspec.json.encode(body), 200 if ok else 503, media_type=JSON)


async def stats(request: Request) -> Response:
    """A JSON snapshot of every model: the last seconds, the queue, the workers, the gateways."""
    gateway: GatewayServices = request.app.state.gateway
    monitor = gateway.monitor
    models = {model: describe(snapshot) for model, snapshot in monitor.snapshots.items()}
    body = Stats("up" if monitor.fresh else "down", models)
    return Response(msgspec.json.encode(body), media_type=JSON)


async def openapi(request: Request) -> Response:
    """What is served here, as an OpenAPI 3.1 document."""
    return Response(request.app.state.openapi, media_type=JSON)
