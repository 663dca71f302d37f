"""The ASGI application: routes, and a lifespan that owns every resource."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import pages
from gateway.gateway import Gateway
from gateway.predict import Predict
from gateway.problems import problem
from shared import logs
from shared.settings import Settings, from_environment


def create_app(settings: Settings | None = None) -> Starlette:
    """Make the application; without `settings` they come from the environment (a process of several)."""
    if settings is None:
        settings = from_environment()
        logs.set_up(settings.log_format, settings.log_level, "gateway")

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        gateway = Gateway(settings)
        app.state.gateway = gateway
        await gateway.start()
        try:
            yield
        finally:
            await gateway.close()

    return Starlette(
        routes=[
            Route("/predict", Predict(), methods=["POST"]),
            Route("/healthz", pages.healthz),
            Route("/readyz", pages.readyz),
            Route("/metrics", pages.metrics),
            Route("/stats", pages.stats),
        ],
        exception_handlers={404: _http_error, 405: _http_error, Exception: _unexpected},
        lifespan=lifespan,
    )


def _http_error(request: Request, error: Exception) -> Response:
    raise error


async def _unexpected(request: Request, error: Exception) -> Response:
    status, headers, body = problem(error, None)
    return Response(body, status, dict(headers))
