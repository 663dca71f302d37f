"""The files of the docs page. They contain nothing about the served models, so they need no API key; /openapi.json,
which the page reads, does."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

_SCRIPT = "text/javascript; charset=utf-8"

# path → file, media type
FILES = {
    "/docs": ("page.html", "text/html; charset=utf-8"),
    "/docs/page.css": ("page.css", "text/css; charset=utf-8"),
    "/docs/page.js": ("page.js", _SCRIPT),
    "/docs/rapidoc.js": ("rapidoc-9.3.8.min.js", _SCRIPT),
    "/docs/example.png": ("example.png", "image/png"),
}

# No resources of other origins, and no inline scripts. RapiDoc needs inline styles; blob: shows a response's image.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # revalidated every time, mostly with a 304
}


async def docs(request: Request) -> Response:
    content, etag, media_type = _load(request.scope["path"])
    headers = {**_HEADERS, "etag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


@functools.cache
def _load(path: str) -> tuple[bytes, str, str]:
    name, media_type = FILES[path]
    content = (Path(__file__).parent / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:16]}"', media_type
