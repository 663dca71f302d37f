"""GET /openapi.json."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from smartbatch.gateway.oip.endpoints import SystemView
from smartbatch.gateway.web.openapi.build import document

_HEADERS = {"cache-control": "no-cache"}  # models come and go


async def openapi(request: Request) -> Response:
    """Return the OpenAPI 3.1 document, with examples for the served models that the key may use."""
    gateway: SystemView = request.app.state.gateway
    models = gateway.monitor.models.values()
    managed = request.scope["server"][1] == gateway.settings.management_port  # there no request needs a key
    if gateway.authenticator is not None and not managed:
        principal = gateway.authenticator.identify(request.scope["headers"])
        models = [info for info in models if principal.may_use(info.name)]
    return Response(document(gateway.settings, tuple(models)), headers=_HEADERS, media_type="application/json")
