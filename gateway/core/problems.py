"""Responses to errors: the one table of HTTP statuses, and a JSON object that describes the error.

The object is RFC 9457 problem details, with `error` added for clients of the Open Inference Protocol.
"""

from __future__ import annotations

import functools
import math

import msgspec

from smartbatch.gateway.core.response_types import Problem
from smartbatch.shared import errors

CONTENT_TYPE = "application/problem+json"

# A class that isn't listed has the status of its nearest listed base class (a test walks the tree).
STATUS: dict[type[errors.SmartBatchError], int] = {
    errors.SmartBatchError: 500,
    errors.ClientError: 400,
    errors.MalformedBody: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.UnknownModel: 404,
    errors.NotAcceptable: 406,
    errors.BodyTimeout: 408,
    errors.HeadTimeout: 408,
    errors.BodyTooLarge: 413,
    errors.TooManyRows: 413,
    errors.UrlTooLong: 414,
    errors.UnsupportedMedia: 415,
    errors.InvalidInput: 422,
    errors.LimitReached: 429,
    errors.HeadTooLarge: 431,
    errors.ClientGone: 499,  # nginx's; the client has gone, but the log and the metrics show it
    errors.ModelFailed: 500,
    errors.DeadLettered: 500,
    errors.WireError: 502,  # Bad Gateway: here, an invalid reply of a worker
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
}

# Details may quote input of any size.
MAX_DETAIL_CHARS = 1000

# A longer computed Retry-After isn't more useful.
MAX_RETRY_AFTER_S = 3600
DAY_S = 86400  # the longest Retry-After of a quota, which isn't an estimate

# Clients don't see where the broker is, nor how the connection failed.
BROKER_DETAIL = "the broker is unavailable; see the server's log"

Headers = dict[str, str]


def status_of(error: BaseException) -> int:
    return _status_of(type(error))


@functools.cache
def _status_of(kind: type[BaseException]) -> int:
    return next((STATUS[cls] for cls in kind.__mro__ if cls in STATUS), 500)


def code_of(error: BaseException) -> str:
    return error.code if isinstance(error, errors.SmartBatchError) else errors.INTERNAL


def public_error(error: BaseException, request_id: str | None) -> tuple[str, str]:
    """Return the code of `error` and the detail that a client sees. `request_id` is None if the request has none.

    Of an unexpected exception a client sees the request id only, by which the log can be searched.
    """
    if not isinstance(error, errors.SmartBatchError):
        detail = "internal error; see the server's log"
        if request_id:
            detail += f" under request id {request_id}"
        return errors.INTERNAL, detail
    detail = BROKER_DETAIL if type(error) is errors.BrokerUnavailable else error.detail
    return error.code, _printable(error.code, detail)


def problem(error: BaseException, request_id: str | None) -> tuple[int, Headers, bytes]:
    """Return the response to `error`: status, headers, body."""
    code, detail = public_error(error, request_id)
    status, headers, body = problem_with(status_of(error), code, detail, request_id)
    if isinstance(error, errors.Unavailable):
        headers["retry-after"] = str(_whole_seconds(error.retry_after_s))
    elif isinstance(error, errors.LimitReached):
        headers["retry-after"] = str(_whole_seconds(error.retry_after_s, DAY_S))
    elif isinstance(error, errors.Unauthenticated):
        headers["www-authenticate"] = 'Bearer realm="smartbatch"'
    return status, headers, body


def problem_with(status: int, code: str, detail: str, request_id: str | None) -> tuple[int, Headers, bytes]:
    """Return the response to an error that has no class, such as an unknown path or method."""
    content, headers = _render(status, code, detail), {"content-type": CONTENT_TYPE}
    if request_id:
        headers["x-request-id"] = request_id
        content = b'%b,"request_id":"%b"}' % (content[:-1], request_id.encode())  # ours, so nothing is to be escaped
    return status, headers, content


@functools.lru_cache(maxsize=64)
def _render(status: int, code: str, detail: str) -> bytes:
    """Render a problem without its request id. Cached, since requests refused together get the same one."""
    detail = _printable(code, detail)
    return msgspec.json.encode(Problem(f"urn:smartbatch:{code}", _title(code), status, detail, code, detail))


def _title(code: str) -> str:
    return code.replace("_", " ").capitalize()


def _printable(code: str, detail: str) -> str:
    if detail and len(detail) <= MAX_DETAIL_CHARS and detail.isascii():
        return detail
    # JSON can't hold lone surrogates, and the response to a bad request must not fail in turn.
    return (detail or _title(code))[:MAX_DETAIL_CHARS].encode("utf-8", "replace").decode()


def _whole_seconds(retry_after_s: float, most_s: int = MAX_RETRY_AFTER_S) -> int:
    if not retry_after_s > 1:  # NaN too
        return 1
    return math.ceil(min(retry_after_s, most_s))
