"""The static files of the live page. They contain nothing about the served models, so they need no API key; the stream
of statistics (events.py) does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.routing import BaseRoute

from smartbatch.gateway.web.live.events import Events, models
from smartbatch.gateway.web.page_files import page_files

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
    "/live/versions.js": ("versions.js", _SCRIPT),
    "/live/nearest.js": ("nearest.js", _SCRIPT),
    "/live/predict.js": ("predict.js", _SCRIPT),
    "/live/result.js": ("result.js", _SCRIPT),
    "/live/uPlot.js": ("vendor/uPlot.iife.min.js", _SCRIPT),
    "/live/uPlot.css": ("vendor/uPlot.min.css", _CSS),
}
EVENTS = "/live/events"
MODELS = "/live/models"

file = page_files(Path(__file__).parent / "static", FILES, "style-src 'self'; img-src 'self' blob:")  # blob: a preview


def routes(route: Callable[..., BaseRoute]) -> list[BaseRoute]:
    """Return the routes of the page and its stream. `route` creates one on the management port."""
    endpoints = [route(EVENTS, Events(), methods=["GET"]), route(MODELS, models)]
    return [*(route(path, file) for path in FILES), *endpoints]
