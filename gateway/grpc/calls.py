"""Headers and errors of gRPC calls."""

from __future__ import annotations

from typing import NoReturn

import grpc

from smartbatch.gateway.grpc.statuses import status

Context = grpc.aio.ServicerContext
Headers = list[tuple[bytes, bytes]]


def headers_of(context: Context) -> Headers:
    """Return the metadata of a call as HTTP headers."""
    sent = context.invocation_metadata() or ()
    return [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in sent]


async def abort(context: Context, error: BaseException, request_id: str | None) -> NoReturn:
    code, detail, metadata = status(error, request_id)
    await context.abort(code, detail, metadata)
    raise AssertionError("abort raises")
