"""Parses request bodies for drivers that can await: large ones in a thread, so that other requests are served
meanwhile."""

from __future__ import annotations

import asyncio
import contextlib

from smartbatch.gateway.inference.body_reader import inflate
from smartbatch.gateway.inference.request import InferenceRequest
from smartbatch.gateway.inference.request_services import RequestServices
from smartbatch.shared.errors import BodyTooLarge, DeadlineExceeded

LARGE_BYTES = 128 * 1024  # a longer body or response is processed in a thread


async def parse_body(services: RequestServices, request: InferenceRequest, body: bytes, coding: str) -> None:
    """Parse a body that may be compressed. A large one counts against the memory for bodies, and is abandoned at the
    request's deadline. Raises ReceivingFull, DeadlineExceeded or ClientError."""
    limit = services.settings.max_body_bytes
    if coding:
        with contextlib.suppress(BodyTooLarge):
            body, coding = inflate(body, coding, min(LARGE_BYTES, limit)), ""
    named_in_body = request.codec.model_in_body
    if not coding and len(body) <= LARGE_BYTES:
        if named_in_body:
            request.read_body(body)
        request.parse_body(body)
        return
    size = limit if coding else len(body)
    services.body_memory.reserve(size)
    try:
        async with asyncio.timeout_at(request.deadline_at):  # on the loop's clock, which is time.monotonic()
            if named_in_body:
                if coding:
                    body, coding = await services.in_thread(inflate, body, coding, limit), ""
                request.read_body(body)
            await services.in_thread(lambda: request.parse_body(inflate(body, coding, limit) if coding else body))
    except TimeoutError:
        raise DeadlineExceeded("the timeout passed before the body was parsed") from None
    finally:
        services.body_memory.release(size)
