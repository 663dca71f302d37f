"""InferenceRequest a server body by body, while nothing else runs: what it answers then, it must answer under load."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from typing import Any

from loadtest.traffic import answers
from loadtest.traffic.bodies import Body

TIMEOUT_S = 60.0
AGAIN_S = 0.5
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # http_proxy isn't for loopback


class Refused(Exception):
    """The server doesn't answer a body with a result; the text says what it said. `status` is 0 if it said nothing."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


def alone(target: str, bodies: Iterable[Body], headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """POST each body to `target`; return the results by the bodies' names. Raises Refused.

    A server that says when to come back (503 with Retry-After) is asked again, for a minute.
    """
    results = {}
    for body in {body.name: body for body in bodies}.values():
        request = urllib.request.Request(target, body.content, {"content-type": body.content_type, **(headers or {})})
        try:
            results[body.name] = answers.result(_patiently(request))
        except urllib.error.HTTPError as error:
            raise Refused(f"{body.name} was answered {error.code}: {_detail(error)}", error.code) from None
        except answers.Unreadable as error:
            raise Refused(f"{target} is no SmartBatch server: {error}") from None
        except (OSError, ValueError) as error:
            raise Refused(f"can't reach {target}: {getattr(error, 'reason', error)}") from None
    return results


def _patiently(request: urllib.request.Request) -> bytes:
    until = time.monotonic() + TIMEOUT_S
    while True:
        try:
            with _DIRECT.open(request, timeout=TIMEOUT_S) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            if error.code != 503 or "retry-after" not in error.headers or time.monotonic() > until:
                raise
            time.sleep(AGAIN_S)


def _detail(error: urllib.error.HTTPError) -> str:
    said = error.read()[:1000].decode(errors="replace")
    try:
        return json.loads(said)["detail"]
    except (ValueError, KeyError, TypeError):
        return said[:200]
