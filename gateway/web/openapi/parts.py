"""Building blocks of the endpoint descriptions in /openapi.json."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from smartbatch.gateway.core.problems import CONTENT_TYPE, DAY_S, MAX_RETRY_AFTER_S, status_of
from smartbatch.gateway.http.heads import MAX_HEAD_BYTES, MAX_URL_BYTES
from smartbatch.gateway.inference.request import MAX_TIMEOUT_S, MIN_TIMEOUT_S
from smartbatch.gateway.web.health import PROBES
from smartbatch.shared import errors
from smartbatch.shared.settings import Settings
from smartbatch.shared.telemetry import metric_names as names

Json = dict[str, Any]

JSON = "application/json"
# Never sent: the client has disconnected, or the process did not start.
_NOT_SENT = (errors.ClientGone, errors.ModelCommandFailed, errors.StartupError)
_HINTS = {
    414: f"A URL has at most {MAX_URL_BYTES} bytes. ",
    431: f"The request line and headers have at most {MAX_HEAD_BYTES} bytes. ",
}


def page(
    name: str,
    path: str,
    summary: str,
    contents: dict[int, Json],
    *,
    parameters: Iterable[Json] = (),
    codes: Iterable[str] = (),
    content_type: str = CONTENT_TYPE,
    description: str = "",
) -> Json:
    """Describe an operation that runs no model. `codes` are its errors, in addition to those of any request."""
    access = [] if path in PROBES else [errors.Unauthenticated.code, errors.Forbidden.code]
    closing = [code for code in names.CONNECTIONS_CLOSED.values if code in errors.by_code()]
    responses = problems([*access, *closing, *codes, errors.INTERNAL], {}, content_type)
    for status, content in contents.items():
        known = responses.get(str(status), {"description": summary, "content": {}})
        responses[str(status)] = {**known, "content": {**known["content"], **content}}
    described: Json = {"operationId": name, "summary": summary, "responses": responses}
    if description:
        described["description"] = description
    if parameters := list(parameters):
        described["parameters"] = parameters
    return described


def running(settings: Settings, content_type: str = CONTENT_TYPE) -> tuple[list[Json], Json, Json]:
    """Return the parameters, response headers and error responses of all operations that run a model."""
    timeout = {"type": "number", "minimum": MIN_TIMEOUT_S, "maximum": MAX_TIMEOUT_S}
    parameters = [
        parameter(
            "header",
            "X-Request-Timeout",
            {"schema": timeout},
            f"Seconds that the client is willing to wait for the response; at most {settings.request_timeout:g}",
        ),
        parameter(
            "header", "X-Request-Id", schema("string"), "ID of the request, echoed if it is printable and not too long"
        ),
        parameter("header", "Traceparent", schema("string"), "W3C trace context; an invalid one is ignored"),
    ]
    headers = {
        "X-Request-Id": header("string", "ID of the request: the client's if it sent one, otherwise the server's"),
        "Server-Timing": header("string", "Time of each part in ms"),
        "X-Batch-Rows": header("integer", "Rows in the request's batch"),
        "X-Batch-Closed": header("string", "Why the batch was closed"),
    }
    codes = [code for code, cls in errors.by_code().items() if not issubclass(cls, _NOT_SENT)] + [errors.INTERNAL]
    error_headers = {"X-Request-Id": header("string", "ID of the request in the server's log")}
    return parameters, headers, problems(codes, error_headers, content_type)


def limits(settings: Settings) -> str:
    return (
        f"At most {settings.max_body_bytes} bytes (MAX_BODY_BYTES) and {settings.max_request_rows} rows "
        "(MAX_REQUEST_ROWS). Content-Encoding may be gzip or deflate."
    )


def problems(codes: Iterable[str], headers: Json, content_type: str) -> Json:
    """Describe the error responses of `codes` by status."""
    tree = errors.by_code()
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in codes:
        by_status[status_of(tree[code](code)) if code in tree else 500].append(code)
    more = {
        401: {"WWW-Authenticate": header("string", "How to authenticate")},
        429: _retry_after(DAY_S),
        503: _retry_after(MAX_RETRY_AFTER_S),
    }
    return {
        str(status): {
            "description": _HINTS.get(status, "") + "`code` is one of: " + ", ".join(sorted(found)),
            "headers": {**headers, **more.get(status, {})},
            "content": {media: {"schema": ref("Problem")} for media in (content_type, CONTENT_TYPE)},
        }
        for status, found in sorted(by_status.items())
    }


def _retry_after(most_s: int) -> Json:
    return {"Retry-After": header("integer", "Seconds to wait before the next attempt", minimum=1, maximum=most_s)}


def json_content(name: str) -> Json:
    return {JSON: {"schema": ref(name)}}


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def schema(kind: str, **more: Any) -> Json:
    return {"schema": {"type": kind, **more}}


def header(kind: str, description: str, **more: Any) -> Json:
    return {"description": description, **schema(kind, **more)}


def parameter(where: str, name: str, described: Json, description: str, *, required: bool = False) -> Json:
    return {"in": where, "name": name, "required": required, "description": description, **described}
