"""The endpoint of a page's static files. They contain nothing about the served models, so they need no API key."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response


def page_files(
    folder: Path, files: Mapping[str, tuple[str, str]], policy: str
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint for `files` (path → file in `folder`, media type).

    `policy` says what the page may load (Content-Security-Policy) besides what no page may.
    """
    headers = {
        "content-security-policy": f"default-src 'none'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'none'; {policy}",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",  # revalidated every time, mostly with a 304
    }

    @functools.cache
    def load(path: str) -> tuple[bytes, str, str]:
        name, media_type = files[path]
        content = (folder / name).read_bytes()
        return content, f'"{hashlib.sha256(content).hexdigest()[:16]}"', media_type

    async def file(request: Request) -> Response:
        content, etag, media_type = load(request.scope["path"])
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={**headers, "etag": etag})
        return Response(content, headers={**headers, "etag": etag}, media_type=media_type)

    return file
