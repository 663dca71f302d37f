"""Where the protocol's endpoints are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.routing import Route

from smartbatch.gateway.http.endpoint import inference_endpoint
from smartbatch.gateway.oip import endpoints

MODEL = "/v2/models/{model}"
VERSIONED = MODEL + "/versions/{version}"


def routes(public: Callable[..., Route], management: Callable[..., Route]) -> list[Route]:
    """List them; statistics are where /stats is."""
    found = [
        Route("/v2/health/live", endpoints.live),
        Route("/v2/health/ready", endpoints.ready),
        public("/v2", endpoints.server),
        public("/v2/repository/index", endpoints.index, methods=["POST"]),
        public("/v2/repository/models/{model}/load", endpoints.load_or_unload, methods=["POST"]),
        public("/v2/repository/models/{model}/unload", endpoints.load_or_unload, methods=["POST"]),
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
        found.append(public(base + "/infer", inference_endpoint, methods=["POST"]))
    return found
