"""The paths of the protocol's REST endpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.routing import Route

from smartbatch.gateway.oip import endpoints

MODEL = "/v2/models/{model}"
VERSIONED = MODEL + "/versions/{version}"


def routes(public: Callable[..., Route], management: Callable[..., Route], infer: Any) -> list[Route]:
    """Return the routes. `public` and `management` create a route on that port. `infer` is the inference endpoint."""
    found = [
        Route("/v2/health/live", endpoints.live),
        Route("/v2/health/ready", endpoints.ready),
        public("/v2", endpoints.server),
        public("/v2/repository/index", endpoints.index, methods=["POST"]),
        Route("/v2/repository/models/{model}/load", endpoints.load, methods=["POST"]),
        Route("/v2/repository/models/{model}/unload", endpoints.unload, methods=["POST"]),
        management("/v2/models/stats", endpoints.all_statistics),
    ]
    of_model: list[tuple[Callable[..., Route], str, Any]] = [
        (public, "", endpoints.model_metadata),
        (public, "/ready", endpoints.model_ready),
        (public, "/config", endpoints.model_config),
        (management, "/stats", endpoints.model_statistics),
    ]
    for base in (MODEL, VERSIONED):
        found += [place(base + path, endpoint) for place, path, endpoint in of_model]
        found.append(public(base + "/infer", infer, methods=["POST"]))
    return found
