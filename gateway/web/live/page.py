"""The static files of the live page. They contain nothing about the served models, so they need no API key; the stream
of statistics (events.py) does."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from importlib import resources
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from smartbatch.gateway.web.live.events import Events, models

_HTML, _CSS, _SCRIPT = ("text/html; charset=utf-8", "text/css; charset=utf-8", "text/javascript; charset=utf-8")

# path → file, media type
FILES = {
    "/": ("index.html", _HTML),
    "/live/icon.svg": ("icon.svg", "image/svg+xml"),
    "/live/page.css": ("page.css", _CSS),
    "/live/page.js": ("page.js", _SCRIPT),
    "/live/stream.js": ("stream.js", _SCRIPT),
    "/live/texts.js": ("texts.js", _SCRIPT),
    "/live/history.js": ("history.js", _SCRIPT),
    "/live/problems.js": ("problems.js", _SCRIPT),
    "/live/charts.js": ("charts.js", _SCRIPT),
    "/live/tables.js": ("tables.js", _SCRIPT),
    "/live/predict.js": ("predict.js", _SCRIPT),
    "/live/result.js": ("result.js", _SCRIPT),
    "/live/uPlot.js": ("vendor/uPlot.iife.min.js", _SCRIPT),
    "/live/uPlot.css": ("vendor/uPlot.min.css", _CSS),
}
EVENTS = "/live/events"
MODELS = "/live/models"

# No inline scripts or styles and no other origins; blob: is the preview of the chosen image.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # revalidated every time, mostly with a 304
}


def routes(route: Callable[..., BaseRoute]) -> list[BaseRoute]:
    """Return the routes of the page and its stream. `route` creates one on the management port."""
    endpoints = [route(EVENTS, Events(), methods=["GET"]), route(MODELS, models)]
    return [*(route(path, file) for path in FILES), *endpoints]


async def file(request: Request) -> Response:
    content, etag, media_type = _load(request.scope["path"])
    headers = {**_HEADERS, "etag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


@functools.cache
def _load(path: str) -> tuple[bytes, str, Any]:
    name, media_type = FILES[path]
    content = (resources.files("smartbatch.gateway.web.live") / "static" / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:16]}"', media_type
