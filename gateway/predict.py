"""POST /predict as an ASGI endpoint: for a request whose body is large, compressed, slow to come, or wants a 100."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from starlette.types import Receive, Scope, Send

from gateway.asking import Asking
from gateway.gateway import Gateway
from gateway.pending import Awaited, Pending
from gateway.reading import inflate, read_body
from shared.broker.admission import Request
from shared.errors import BodyTooLarge, ClientGone, DeadlineExceeded, SmartBatchError

log = logging.getLogger(__name__)

LARGE_BYTES = 128 * 1024  # a longer body is parsed in a thread, so that others are served meanwhile
SLOW_S = 0.05  # after so long a request is worth watching for its client hanging up


class Predict:
    """The endpoint; stateless."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway: Gateway = scope["app"].state.gateway
        asking = Asking(gateway)
        settings = gateway.settings
        try:
            asking.head(scope["headers"], scope["query_string"])
            body, coding = await read_body(
                scope, receive, settings.max_body_bytes, settings.request_timeout, gateway.receiving
            )
            request = await _made(gateway, asking, body, coding)
            response = asking.answered(await _reply(asking.submit(request), receive))
        except Exception as error:
            response = asking.failed(error)
            if response is None:
                return
        finally:
            asking.forget()
        headers = [*response.headers, (b"content-length", b"%d" % len(response.content))]
        try:
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            await send({"type": "http.response.body", "body": response.content})
        except RuntimeError as error:  # uvicorn's, when the connection closed under it
            log.debug("an answer could not be sent: %s", error)


async def _made(gateway: Gateway, asking: Asking, body: bytes, coding: str) -> Request:
    """Make the request of a body: a large one in the thread, within the bound on all bodies that are held for it, and
    not once its time is up."""
    if coding:
        with contextlib.suppress(BodyTooLarge):
            body, coding = inflate(body, coding, LARGE_BYTES), ""
    if not coding and len(body) <= LARGE_BYTES:
        return asking.request(body)
    most = gateway.settings.max_body_bytes
    size = most if coding else len(body)
    gateway.receiving.take(size)
    try:
        async with asyncio.timeout_at(asking.deadline_at):  # on the loop's clock, which is time.monotonic()
            return await gateway.in_thread(lambda: asking.request(inflate(body, coding, most) if coding else body))
    except TimeoutError:
        raise DeadlineExceeded("its time was up before its large body was read") from None
    finally:
        gateway.receiving.give(size)


async def _reply(pending: Awaited, receive: Receive) -> bytes:
    """Await the packed reply, and see whether the client hangs up meanwhile."""
    watch: asyncio.Task[None] | None = None

    def start() -> None:
        nonlocal watch
        watch = asyncio.create_task(_until_gone(pending, receive))

    timer = asyncio.get_running_loop().call_later(SLOW_S, start)
    try:
        return await pending.future
    finally:
        timer.cancel()
        if watch:
            watch.cancel()


async def _until_gone(pending: Pending, receive: Receive) -> None:
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except SmartBatchError as error:  # the connection ends, and says why
        pending.end(error)
    else:
        pending.end(ClientGone("the client hung up"))
