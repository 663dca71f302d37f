"""How an error becomes a response: the one table of HTTP statuses, and the JSON object that says what went wrong.

The object is RFC 9457 problem details and holds `error` besides, which is what inference-protocol clients read.
"""

from __future__ import annotations

import functools
import math

import msgspec

from smartbatch.gateway.core.response_types import Problem
from smartbatch.shared import errors

CONTENT_TYPE = "application/problem+json"

# A class that isn't listed takes the status of the nearest class above it (a test walks the tree).
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
    errors.ClientGone: 499,  # nginx's; nobody is left to read it, but the access log and the metrics do
    errors.ModelFailed: 500,
    errors.DeadLettered: 500,
    errors.WireError: 502,  # "received an invalid response from an inbound server": here, from a worker
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
}

# The longest texts quote what came, and that can be any size.
MAX_DETAIL_CHARS = 1000

# A computed Retry-After past this says nothing better than "come back later".
MAX_RETRY_AFTER_S = 3600
DAY_S = 86400  # the end of a quota's day is no estimate

# What a client is told of a broker that is away: not where it is, nor how the connection failed.
UNTOLD = "the broker is unavailable; see the server's log"

Headers = dict[str, str]


def status_of(error: BaseException) -> int:
    for cls in type(error).__mro__:
        if cls in STATUS:
            return STATUS[cls]
    return 500


def code_of(error: BaseException) -> str:
    return error.code if isinstance(error, errors.SmartBatchError) else errors.INTERNAL


def told(error: BaseException, request_id: str | None) -> tuple[str, str]:
    """Return the code of `error` and what a client is told of it. `request_id` is None if the request never got one.

    Of an exception outside our tree nothing is shown but the request id, by which the log can be searched.
    """
    if not isinstance(error, errors.SmartBatchError):
        detail = "internal error; see the server's log"
        if request_id:
            detail += f" under request id {request_id}"
        return errors.INTERNAL, detail
    detail = UNTOLD if type(error) is errors.BrokerUnavailable else error.detail
    return error.code, _showable(error.code, detail)


def problem(error: BaseException, request_id: str | None) -> tuple[int, Headers, bytes]:
    """Return the response to `error`: status, headers, body."""
    code, detail = told(error, request_id)
    status, headers, body = problem_with(status_of(error), code, detail, request_id)
    if isinstance(error, errors.Unavailable):
        headers["retry-after"] = str(_whole_seconds(error.retry_after_s))
    elif isinstance(error, errors.LimitReached):
        headers["retry-after"] = str(_whole_seconds(error.retry_after_s, DAY_S))
    elif isinstance(error, errors.Unauthenticated):
        headers["www-authenticate"] = 'Bearer realm="smartbatch"'
    return status, headers, body


def problem_with(status: int, code: str, detail: str, request_id: str | None) -> tuple[int, Headers, bytes]:
    """Return a problem that no class of ours stands for, such as a path or a method that doesn't exist."""
    content, headers = _written(status, code, detail), {"content-type": CONTENT_TYPE}
    if request_id:
        headers["x-request-id"] = request_id
        content = b'%b,"request_id":%b}' % (content[:-1], msgspec.json.encode(request_id))
    return status, headers, content


@functools.lru_cache(maxsize=64)
def _written(status: int, code: str, detail: str) -> bytes:
    """A problem without its request id: those who are refused together are told the same."""
    detail = _showable(code, detail)
    return msgspec.json.encode(Problem(f"urn:smartbatch:{code}", _title(code), status, detail, code, detail))


def _title(code: str) -> str:
    return code.replace("_", " ").capitalize()


def _showable(code: str, detail: str) -> str:
    if detail and len(detail) <= MAX_DETAIL_CHARS and detail.isascii():
        return detail
    # Lone surrogates can't be written as JSON, and a reply to a bad request must not fail in its turn.
    return (detail or _title(code))[:MAX_DETAIL_CHARS].encode("utf-8", "replace").decode()


def _whole_seconds(retry_after_s: float, most_s: int = MAX_RETRY_AFTER_S) -> int:
    if not retry_after_s > 1:  # NaN too
        return 1
    return math.ceil(min(retry_after_s, most_s))
