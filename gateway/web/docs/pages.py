"""The files of the docs page."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

_FILES = {
    "/docs": ("page.html", "text/html; charset=utf-8"),
    "/docs/rapidoc.js": ("rapidoc-9.3.8.min.js", "text/javascript; charset=utf-8"),
    "/docs/theme.js": ("theme.js", "text/javascript; charset=utf-8"),
}
PATHS = tuple(_FILES)

# No resources of other origins. RapiDoc needs inline styles.
_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"


async def docs(request: Request) -> Response:
    name, media_type = _FILES[request.scope["path"]]
    headers = {"content-security-policy": _POLICY, "cache-control": "max-age=3600"}
    return Response(_read(name), media_type=media_type, headers=headers)


@lru_cache
def _read(name: str) -> bytes:
    return (Path(__file__).parent / name).read_bytes()
