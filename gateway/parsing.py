"""From a body to a request: a short one at once, a long one beside the event loop."""

from __future__ import annotations

import asyncio
import contextlib

from gateway.asking import Asking
from gateway.gateway import LARGE_BYTES, Gateway
from gateway.reading import inflate
from shared.broker.admission import Request
from shared.errors import BodyTooLarge, DeadlineExceeded


async def made(gateway: Gateway, asking: Asking, body: bytes, coding: str) -> Request:
    """Make the request of a body: a large one in the thread, within the bound on all bodies that are held for it, and
    not once its time is up."""
    most = gateway.settings.max_body_bytes
    if coding:
        with contextlib.suppress(BodyTooLarge):
            body, coding = inflate(body, coding, min(LARGE_BYTES, most)), ""
    if not coding and len(body) <= LARGE_BYTES:
        return asking.request(body)
    size = most if coding else len(body)
    gateway.receiving.take(size)
    try:
        async with asyncio.timeout_at(asking.deadline_at):  # on the loop's clock, which is time.monotonic()
            return await gateway.in_thread(lambda: asking.request(inflate(body, coding, most) if coding else body))
    except TimeoutError:
        raise DeadlineExceeded("its time was up before its large body was read") from None
    finally:
        gateway.receiving.give(size)
