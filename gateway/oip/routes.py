"""Where the protocol's endpoints are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.routing import Route

from gateway.endpoint import RUN
from gateway.oip import pages

MODEL = "/v2/models/{model}"
VERSIONED = MODEL + "/versions/{version}"


def routes(public: Callable[..., Route], management: Callable[..., Route]) -> list[Route]:
    """List them; statistics are where /stats is."""
    found = [
        Route("/v2/health/live", pages.live),
        Route("/v2/health/ready", pages.ready),
        public("/v2", pages.server),
        public("/v2/repository/index", pages.index, methods=["POST"]),
        public("/v2/repository/models/{model}/load", pages.load_or_unload, methods=["POST"]),
        public("/v2/repository/models/{model}/unload", pages.load_or_unload, methods=["POST"]),
        management("/v2/models/stats", pages.all_statistics),
    ]
    of_model: list[tuple[Callable[..., Route], str, Any]] = [
        (public, "", pages.model_metadata),
        (public, "/ready", pages.model_ready),
        (public, "/config", pages.model_config),
        (management, "/stats", pages.model_statistics),
    ]
    for base in (MODEL, VERSIONED):
        found += [place(base + path, endpoint) for place, path, endpoint in of_model]
        found.append(public(base + "/infer", RUN, methods=["POST"]))
    return found
