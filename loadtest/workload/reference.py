"""Get reference results: send each body alone, while nothing else runs. Under load the result must be the same."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from typing import Any

from loadtest.workload import verify
from loadtest.workload.bodies import Body

TIMEOUT_S = 60.0
RETRY_S = 0.5
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # ignores http_proxy


class ReferenceFailed(RuntimeError):
    """The server returned no result for a body; the text has the reason. `status` is 0 if there was no response."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


def reference_results(url: str, bodies: Iterable[Body], headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """POST each body to `url`; return the results by body name. Raises ReferenceFailed.

    A 503 with Retry-After is retried for a minute.
    """
    results = {}
    for body in {body.name: body for body in bodies}.values():
        request = urllib.request.Request(url, body.content, {"content-type": body.content_type, **(headers or {})})
        try:
            results[body.name] = verify.result(_post(request))
        except urllib.error.HTTPError as error:
            raise ReferenceFailed(f"{body.name} got status {error.code}: {_detail(error)}", error.code) from None
        except verify.Unreadable as error:
            raise ReferenceFailed(f"{url} is not a SmartBatch server: {error}") from None
        except (OSError, ValueError) as error:
            raise ReferenceFailed(f"cannot reach {url}: {getattr(error, 'reason', error)}") from None
    return results


def _post(request: urllib.request.Request) -> bytes:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            with _DIRECT.open(request, timeout=TIMEOUT_S) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            if error.code != 503 or "retry-after" not in error.headers or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)


def _detail(error: urllib.error.HTTPError) -> str:
    text = error.read()[:1000].decode(errors="replace")
    try:
        return json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError):
        return text[:200]
