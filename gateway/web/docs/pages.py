"""The files of the docs page. They contain nothing about the served models, so they need no API key; /openapi.json,
which the page reads, does."""

from __future__ import annotations

from pathlib import Path

from smartbatch.gateway.web.page_files import page_files

_SCRIPT = "text/javascript; charset=utf-8"

# path → file, media type
FILES = {
    "/docs": ("page.html", "text/html; charset=utf-8"),
    "/docs/page.css": ("page.css", "text/css; charset=utf-8"),
    "/docs/page.js": ("page.js", _SCRIPT),
    "/docs/rapidoc.js": ("rapidoc-9.3.8.min.js", _SCRIPT),
    "/docs/example.png": ("example.png", "image/png"),
}

# RapiDoc needs inline styles; blob: shows a response's image.
docs = page_files(Path(__file__).parent, FILES, "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:")
