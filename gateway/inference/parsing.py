"""From a body to a request: a short one at once, a long one beside the event loop."""

from __future__ import annotations

import asyncio
import contextlib

from smartbatch.gateway.inference.body_reader import inflate
from smartbatch.gateway.inference.request import InferenceRequest
from smartbatch.gateway.services import LARGE_BYTES, GatewayServices
from smartbatch.shared.broker.queue.admission import NewEntry
from smartbatch.shared.errors import BodyTooLarge, DeadlineExceeded


async def parse_body(gateway: GatewayServices, inference: InferenceRequest, body: bytes, coding: str) -> NewEntry:
    """Make the request of a body: a large one in the thread, within the bound on all bodies that are held for it, and
    not once its time is up."""
    most = gateway.settings.max_body_bytes
    if coding:
        with contextlib.suppress(BodyTooLarge):
            body, coding = inflate(body, coding, min(LARGE_BYTES, most)), ""
    if not coding and len(body) <= LARGE_BYTES:
        return inference.request(body)
    size = most if coding else len(body)
    gateway.body_memory.take(size)
    try:
        async with asyncio.timeout_at(inference.deadline_at):  # on the loop's clock, which is time.monotonic()
            return await gateway.in_thread(lambda: inference.request(inflate(body, coding, most) if coding else body))
    except TimeoutError:
        raise DeadlineExceeded("the timeout passed before the body was parsed") from None
    finally:
        gateway.body_memory.give(size)
