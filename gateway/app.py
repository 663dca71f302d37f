"""The ASGI application: routes, and a lifespan that owns every resource."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from smartbatch.gateway.core.problems import problem, problem_with
from smartbatch.gateway.http.endpoint import inference_endpoint
from smartbatch.gateway.http.fast_path import is_inference_path
from smartbatch.gateway.oip.routes import routes as oip_routes
from smartbatch.gateway.services import GatewayServices
from smartbatch.gateway.web import health, metrics_page
from smartbatch.gateway.web.docs.pages import FILES as DOCS_FILES
from smartbatch.gateway.web.docs.pages import docs
from smartbatch.gateway.web.live import page
from smartbatch.gateway.web.openapi.endpoint import openapi
from smartbatch.shared.process import gc_freeze
from smartbatch.shared.process.parent import end_with_parent
from smartbatch.shared.settings import Settings, from_environment
from smartbatch.shared.telemetry import logs


class App(Starlette):
    """Passes inference requests directly to their endpoint, which renders its own errors. Starlette's middleware and
    router would use a sixth of the gateway's CPU time (`make bench ONLY=E`)."""

    management_port = -1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or on_port(scope, self.management_port):  # management requests need no key
            await super().__call__(scope, receive, send)
            return
        if scope["method"] == "POST" and is_inference_path(scope["path"]):
            scope["app"] = self
            await inference_endpoint(scope, receive, send)
            return
        authenticator = self.state.gateway.authenticator
        if authenticator and (error := authenticator.refusal(scope["path"], scope["headers"])):
            await _problem_response(error)(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def on_port(scope: Scope, port: int) -> bool:
    return port >= 0 and scope["server"][1] == port


class PortRoute(Route):
    """A route that exists on one port only: MANAGEMENT_PORT if `managed`, otherwise PORT."""

    def __init__(self, path: str, endpoint: Any, *, managed: bool, port: int, methods: list[str] | None = None) -> None:
        super().__init__(path, endpoint, methods=methods)
        self._managed = managed
        self._port = port

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if self._port >= 0 and on_port(scope, self._port) != self._managed:
            return Match.NONE, {}
        return super().matches(scope)


ExtraServer = Callable[[GatewayServices], contextlib.AbstractAsyncContextManager[None]]


def create_app(settings: Settings | None = None, extra_server: ExtraServer | None = None) -> Starlette:
    """Create the application. Without `settings` (one process of several), read them from the environment.
    `extra_server` runs from the start of the services until just before they close."""
    if settings is None:
        settings = from_environment()
        parent = multiprocessing.parent_process()
        end_with_parent(parent.pid if parent else None)
        logs.set_up(settings.log_format, settings.log_level, "gateway")

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        services = GatewayServices(settings)
        app.state.gateway = services
        await services.start()
        try:
            async with extra_server(services) if extra_server else contextlib.nullcontext():
                gc_freeze.freeze_startup_objects()
                yield {"connection_registry": services.connection_registry, "services": services}  # for Connection
        finally:
            await services.close()

    public = functools.partial(PortRoute, managed=False, port=settings.management_port)
    management = functools.partial(PortRoute, managed=True, port=settings.management_port)
    app = App(
        routes=[
            Route("/healthz", health.healthz),
            public("/predict", inference_endpoint, methods=["POST"]),
            management("/readyz", health.readyz),
            management("/metrics", metrics_page.metrics),
            management("/stats", health.stats),
            Route("/openapi.json", openapi),
            *(Route(path, docs) for path in DOCS_FILES),
            *oip_routes(public, management, inference_endpoint),
            *page.routes(management),
        ],
        exception_handlers={404: _http_error, 405: _http_error, Exception: _unexpected},
        lifespan=lifespan,
    )
    app.management_port = settings.management_port
    app.router.redirect_slashes = False  # a redirect would contain the client's Host header
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    """Render the error for an unknown path or method."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 404:
        code, detail = "not_found", f"path not found: {path[:200]}"
        if path.endswith("/") and any(getattr(route, "path", None) == path.rstrip("/") for route in request.app.routes):
            detail += f"; did you mean {path.rstrip('/')}, without the trailing slash?"
    else:
        allowed = (error.headers or {}).get("Allow", "other methods")
        code, detail = "method_not_allowed", f"{path} allows only {allowed}"
    status, headers, body = problem_with(error.status_code, code, detail, None)
    return Response(body, status, {**headers, **(error.headers or {})})


async def _unexpected(request: Request, error: Exception) -> Response:
    return _problem_response(error)


def _problem_response(error: Exception) -> Response:
    status, headers, body = problem(error, None)
    return Response(body, status, headers)
