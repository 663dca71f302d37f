"""The stream of statistics for the live page, as server-sent events.

Once a second, each process adds a point to the history of each model. The first event of a viewer contains the history,
each later one the newest values. Without viewers nothing is encoded. A slow viewer misses events. Draining ends all
streams immediately.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from smartbatch.gateway.auth.authenticator import Authenticator
from smartbatch.gateway.auth.principal import Principal
from smartbatch.gateway.core.problems import problem
from smartbatch.gateway.http.connection_registry import ConnectionRegistry
from smartbatch.gateway.monitoring.history import LiveModel, ModelHistory
from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.gateway.web.openapi.examples import json_body
from smartbatch.shared.errors import Draining, SmartBatchError, Unavailable
from smartbatch.shared.keys import split_model_id
from smartbatch.shared.model_info import InputSpec, ModelInfo, OutputSpec

log = logging.getLogger(__name__)

EVERY_S = 1.0
MAX_VIEWERS = 32  # per process; each is a connection with a copy of the event in its send buffer
RETRY_S = 10.0  # Retry-After of a rejected viewer
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}  # proxies must not buffer events

# Where a viewer can send requests: to this port, to another one, or nowhere with its API key.
Predict = Literal["here", "elsewhere", "forbidden"]


class LiveEvent(msgspec.Struct, omit_defaults=True):
    """One event. It contains only the models that the viewer's key may use, encoded LiveModels. `default` is empty if
    that model isn't one of them. `history`: the columns of ModelHistory, in the first event."""

    at_ms: int
    broker: Literal["up", "down"]
    default: str
    predict: Predict
    models: dict[str, msgspec.Raw]
    history: dict[str, dict[str, list[Any]]] = {}


class Inputs(msgspec.Struct):
    """What a model takes and returns: ModelInfo's fields, and the example of a JSON body."""

    input: InputSpec
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    classifier: bool
    example: Any


class Offer(msgspec.Struct):
    """What the form needs to know to send requests: for a key that may not read statistics, the models; and for every
    key, the examples."""

    default: str
    models: dict[str, Inputs]


class LiveStream:
    """One per process, used on the event loop only; `run` is its task.

    `authenticator` is None if the page needs no key. `predicts`: whether its port also serves /predict.
    """

    def __init__(
        self,
        monitor: SystemMonitor,
        connection_registry: ConnectionRegistry,
        default: str,
        authenticator: Authenticator | None,
        *,
        predicts: bool,
    ) -> None:
        self._monitor = monitor
        self._connection_registry = connection_registry
        self._default = default
        self._authenticator = authenticator
        self._predicts = predicts
        self._viewers = 0
        self._histories: dict[str, ModelHistory] = {}
        self._models: dict[str, LiveModel] = {}
        self._encoded: dict[str, msgspec.Raw] = {}  # of `_models`, once a viewer needs it
        self._changed = asyncio.Event()
        self._failing = False

    async def run(self) -> None:
        """Add a point once a second until the process drains."""
        while not self._connection_registry.draining:
            try:
                self._add_points()
                self._failing = False
            except Exception:  # unexpected values on the broker must not end the streams
                if not self._failing:
                    log.exception("can't make the statistics of the live page")
                self._failing = True
            self._wake()
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._connection_registry.drain_began.wait()
            except TimeoutError:
                pass
        self._wake()

    def _add_points(self) -> None:
        """Read the latest snapshots. While Redis is unreachable, the history has a gap."""
        monitor = self._monitor
        if not monitor.fresh:
            return
        # Unless somebody watches, models that nobody uses are left out: there may be hundreds.
        shown = {name: each for name, each in monitor.snapshots.items() if self._viewers or each.in_use}
        snapshots, now_s = shown or monitor.snapshots, time.time()
        histories = {name: self._histories.get(name) or ModelHistory() for name in snapshots}
        models = {name: histories[name].add(each, monitor.models.get(name), now_s) for name, each in snapshots.items()}
        self._histories, self._models, self._encoded = histories, models, {}

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def join(self) -> None:
        """Register a viewer, which must call `leave`. Raises Unavailable or Draining."""
        if self._connection_registry.draining:
            raise Draining("the server is shutting down")
        if self._viewers >= MAX_VIEWERS:
            raise Unavailable(f"this gateway process serves at most {MAX_VIEWERS} viewers of the live page", RETRY_S)
        self._viewers += 1

    def leave(self) -> None:
        self._viewers -= 1

    def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal | None:
        """Return the viewer's principal, or None if the page needs no key. Raises Unauthenticated."""
        return None if self._authenticator is None else self._authenticator.identify(headers)

    async def events(self, principal: Principal | None) -> AsyncGenerator[bytes]:
        """Yield the history with the current values, and then the values of each second until the process drains."""
        first = True
        while not self._connection_registry.draining:
            changed = self._changed
            if self._models:
                yield b"data: " + self._event(principal, history=first) + b"\n\n"
                first = False
            await changed.wait()

    def _event(self, principal: Principal | None, *, history: bool) -> bytes:
        names = [name for name in self._models if _may_use(principal, name)]
        for name in names:
            if name not in self._encoded:
                self._encoded[name] = msgspec.Raw(msgspec.json.encode(self._models[name]))
        if principal is not None and principal.key.role == "monitor":
            predict: Predict = "forbidden"
        else:
            predict = "here" if self._predicts else "elsewhere"
        event = LiveEvent(
            at_ms=int(time.time() * 1000),
            broker="up" if self._monitor.fresh else "down",
            default=self._default if self._default in names else "",
            predict=predict,
            models={name: self._encoded[name] for name in names},
            history={name: self._histories[name].columns() for name in names} if history else {},
        )
        return msgspec.json.encode(event)

    def offer(self, principal: Principal | None) -> Offer:
        default = self._default if _may_use(principal, self._default) else ""
        infos = {name: info for name, info in self._monitor.models.items() if _may_use(principal, name)}
        return Offer(default, {name: _inputs(info) for name, info in infos.items()})


def _inputs(info: ModelInfo) -> Inputs:
    return Inputs(info.input, info.inputs, info.outputs, info.classifier, json_body(info))


def _may_use(principal: Principal | None, model: str) -> bool:
    """`model` is a model's ID. A key is limited to names, of which it may use every version."""
    return principal is None or principal.may_use(split_model_id(model)[0])


class Events:
    """The endpoint: GET /live/events."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        live: LiveStream = scope["app"].state.gateway.live
        try:
            principal = live.identify(scope["headers"])
            live.join()
        except SmartBatchError as error:
            status, headers, body = problem(error, None)
            await Response(body, status, headers)(scope, receive, send)
            return
        try:
            if scope["method"] == "HEAD":
                response = Response(headers=_HEADERS, media_type="text/event-stream")
            else:
                response = StreamingResponse(live.events(principal), headers=_HEADERS, media_type="text/event-stream")
            await response(scope, receive, send)
        finally:
            live.leave()


async def models(request: Request) -> Response:
    """GET /live/models: what the models take, for the form."""
    live: LiveStream = request.app.state.gateway.live
    offer = live.offer(live.identify(request.headers.raw))
    return Response(msgspec.json.encode(offer), headers=_HEADERS, media_type="application/json")
