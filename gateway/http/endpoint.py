"""The ASGI endpoint of requests that run a model: those that the fast path hands over or doesn't take."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Receive, Scope, Send

from smartbatch.gateway.http.fast_path import codec_for
from smartbatch.gateway.inference import compression
from smartbatch.gateway.inference.body_reader import read_body
from smartbatch.gateway.inference.parsing import parse_body
from smartbatch.gateway.inference.request import InferenceRequest
from smartbatch.gateway.inference.request_services import RequestServices
from smartbatch.shared.errors import ClientGone, SmartBatchError

log = logging.getLogger(__name__)

WATCH_AFTER_S = 0.05  # after so long a task watches whether the client disconnects


class InferenceEndpoint:
    """Stateless. The path determines the codec."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services: RequestServices = scope["app"].state.gateway
        settings = services.settings
        request = InferenceRequest(services, codec_for(scope["path"]))
        try:
            request.parse_head(scope["headers"], scope["query_string"])
            body, coding = await read_body(
                scope, receive, settings.max_body_bytes, settings.request_timeout, services.body_memory
            )
            await parse_body(services, request, body, coding)
            response = request.finish(await _reply(request, receive))
            accepted = request.codec.content_coding
            if accepted and compression.is_worthwhile(response):
                response = await compression.compress(services, response, accepted)
        except Exception as error:
            response = request.fail(error)
            if response is None:
                return
        finally:
            request.release()
        headers = [*response.headers, (b"content-length", b"%d" % len(response.content))]
        try:
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            await send({"type": "http.response.body", "body": response.content})
        except RuntimeError as error:  # uvicorn's, if the connection closed meanwhile
            log.debug("a response could not be sent: %s", error)


inference_endpoint = InferenceEndpoint()


async def _reply(request: InferenceRequest, receive: Receive) -> bytes:
    """Await the packed reply. Ends the request if the client disconnects."""
    watch: asyncio.Task[None] | None = None

    def start() -> None:
        nonlocal watch
        watch = asyncio.create_task(_end_on_disconnect(request, receive))

    timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, start)
    try:
        return await request.reply()
    finally:
        timer.cancel()
        if watch:
            watch.cancel()


async def _end_on_disconnect(request: InferenceRequest, receive: Receive) -> None:
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except SmartBatchError as error:  # why the connection ends the request
        request.end(error)
    else:
        request.end(ClientGone("the client hung up"))
