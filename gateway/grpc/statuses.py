"""Maps an error to a gRPC status, by its HTTP status (gateway/core/problems.py)."""

from __future__ import annotations

from grpc import StatusCode

from smartbatch.gateway.core.problems import problem, public_error, status_of

STATUS = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    406: StatusCode.INVALID_ARGUMENT,
    408: StatusCode.DEADLINE_EXCEEDED,
    413: StatusCode.INVALID_ARGUMENT,
    414: StatusCode.INVALID_ARGUMENT,
    415: StatusCode.INVALID_ARGUMENT,
    422: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED,
    431: StatusCode.INVALID_ARGUMENT,
    499: StatusCode.CANCELLED,
    500: StatusCode.INTERNAL,
    502: StatusCode.INTERNAL,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}

Metadata = tuple[tuple[str, str], ...]


def status(error: BaseException, request_id: str | None) -> tuple[StatusCode, str, Metadata]:
    """Return the status, its detail and trailing metadata: `error-code` as in REST, `retry-after` in seconds."""
    code, detail = public_error(error, request_id)
    _, headers, _ = problem(error, request_id)
    metadata = [("error-code", code)]
    metadata += [(name, headers[name]) for name in ("retry-after", "x-request-id") if name in headers]
    return STATUS[status_of(error)], detail, tuple(metadata)
