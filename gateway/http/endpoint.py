"""What runs a model, as an ASGI endpoint: all of it but the requests that come in one piece (`http/prompt.py`)."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Receive, Scope, Send

from smartbatch.gateway.http.dispatch import create_request
from smartbatch.gateway.inference import compression
from smartbatch.gateway.inference.body_reader import read_body
from smartbatch.gateway.inference.parsing import parse_body
from smartbatch.gateway.queue.pending import Pending, PendingFuture
from smartbatch.gateway.services import GatewayServices
from smartbatch.shared.errors import ClientGone, SmartBatchError

log = logging.getLogger(__name__)

SLOW_S = 0.05  # after so long a request is worth watching for its client hanging up


class InferenceEndpoint:
    """Stateless. What a request is, its path says."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway: GatewayServices = scope["app"].state.gateway
        inference = create_request(gateway, scope["path"])
        settings = gateway.settings
        try:
            inference.head(scope["headers"], scope["query_string"])
            body, coding = await read_body(
                scope, receive, settings.max_body_bytes, settings.request_timeout, gateway.body_memory
            )
            request = await parse_body(gateway, inference, body, coding)
            response = inference.answered(await _reply(inference.submit(request), receive))
            if compression.wanted(response, inference.coding):
                response = await compression.compressed(gateway, response, inference.coding)
        except Exception as error:
            response = inference.failed(error)
            if response is None:
                return
        finally:
            inference.release()
        headers = [*response.headers, (b"content-length", b"%d" % len(response.content))]
        try:
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            await send({"type": "http.response.body", "body": response.content})
        except RuntimeError as error:  # uvicorn's, when the connection closed under it
            log.debug("an answer could not be sent: %s", error)


inference_endpoint = InferenceEndpoint()


async def _reply(pending: PendingFuture, receive: Receive) -> bytes:
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
