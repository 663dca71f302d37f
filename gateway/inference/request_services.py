"""The services of the gateway process that inference requests use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from smartbatch.gateway.auth.authenticator import Authenticator
from smartbatch.gateway.core.body_memory import BodyMemoryBudget
from smartbatch.gateway.core.request_log import RequestLog
from smartbatch.gateway.core.tracing import Tracing
from smartbatch.gateway.queue.model_queue import ModelQueue
from smartbatch.gateway.routing.shadow import Shadow
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.settings import Settings

T = TypeVar("T")


class RequestServices(Protocol):
    """Implemented by GatewayServices. Used in the event loop only."""

    settings: Settings
    request_ids: Iterator[str]  # unique over all gateways
    model_infos: dict[str, ModelInfo]  # by model ID, announced by workers; one is missing until its first worker is up
    default_queue: ModelQueue
    authenticator: Authenticator | None  # None: no API keys are configured, and everybody is authorized
    tracing: Tracing | None
    request_log: RequestLog
    shadows: dict[str, Shadow]  # by the name of the model
    body_memory: BodyMemoryBudget

    def route(
        self, name: str | None, version: int, headers: Iterable[tuple[bytes, bytes]], timeout_ms: int
    ) -> ModelQueue:
        """Return the queue of a version of the model that accepts a request now. Raises UnknownModel or Unavailable."""
        ...

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run a long computation outside the event loop, one at a time."""
        ...

    def watch(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task and log the error that ends it."""
        ...
