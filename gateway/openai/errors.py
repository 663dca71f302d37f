"""Errors in OpenAI's form, with the same statuses and codes as in every other protocol."""

from __future__ import annotations

import msgspec

from smartbatch.gateway.core.problems import Headers, problem
from smartbatch.gateway.core.response_types import Problem
from smartbatch.gateway.openai.types import ErrorBody, ErrorResponse

PREFIX = "/v1/"
JSON = "application/json"

_PROBLEM = msgspec.json.Decoder(Problem)


def openai_error(error: BaseException, request_id: str | None) -> tuple[int, Headers, bytes]:
    """Return the response to `error`: status, headers, body."""
    return from_problem(*problem(error, request_id))


def from_problem(status: int, headers: Headers, content: bytes) -> tuple[int, Headers, bytes]:
    described = _PROBLEM.decode(content)
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    body = msgspec.json.encode(ErrorResponse(ErrorBody(described.detail, kind, described.code)))
    return status, {**headers, "content-type": JSON}, body
