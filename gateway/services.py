"""The gateway process's state: its lanes, its observer, its metrics. Made by the lifespan, closed by it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from smartbatch.gateway.auth.authenticator import Authenticator
from smartbatch.gateway.core.body_memory import BodyMemoryBudget
from smartbatch.gateway.core.metrics import GatewayMetrics
from smartbatch.gateway.core.request_log import RequestLog
from smartbatch.gateway.core.tracing import tracing_of
from smartbatch.gateway.http.connection_registry import ConnectionRegistry
from smartbatch.gateway.monitoring.process_metrics import ProcessMetrics
from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.gateway.queue.model_queue import ModelQueue
from smartbatch.gateway.web.live.events import LiveStream
from smartbatch.shared.errors import UnknownModel
from smartbatch.shared.keys import check_model_name
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.process import tasks
from smartbatch.shared.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

SETTLE_S = 0.5
LARGE_BYTES = 128 * 1024  # a longer body is parsed in a thread, so that others are served meanwhile


class GatewayServices:
    """One per process. `gateway_id` is never reused, so a dead gateway's inbox is nobody else's."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.prompt_bytes = min(LARGE_BYTES, settings.max_body_bytes)  # a body up to this is read in the event loop
        self._model = settings.model
        self._timeout_s = settings.request_timeout
        self.gateway_id = uuid.uuid4().hex
        self._ids = self.gateway_id[:16]
        self.metrics = GatewayMetrics()
        self.authenticator = Authenticator(settings, self.metrics.registry)
        self.connection_registry = ConnectionRegistry(
            settings.max_connections,
            settings.grace_time,
            self.metrics.refused,
            lambda error: self.request_log.tell(error, dict),
        )
        self.body_memory = BodyMemoryBudget(max(settings.max_receiving_bytes, settings.max_body_bytes))
        self.process_metrics = ProcessMetrics(self.metrics.registry, self.connection_registry, self.body_memory)
        self.request_log = RequestLog()
        self.tracing = tracing_of(self.gateway_id)
        self.queues: dict[str, ModelQueue] = {}
        self.monitor = SystemMonitor(settings, self.gateway_id, self.queues)
        self.live = LiveStream(
            self.monitor, self.connection_registry, settings.model, predicts=settings.management_port < 0
        )
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parse")

    async def start(self) -> None:
        self.queue(self.settings.model)
        self.watch(self.monitor.run())
        await self.authenticator.start()
        self.watch(self.authenticator.run())
        self.watch(self.connection_registry.run())
        self.watch(self._settle_metrics())
        self.watch(self.request_log.run())

    async def _settle_metrics(self) -> None:
        """With several processes, each scrape is answered by one of them, from what all have written to files."""
        while True:
            due = time.monotonic() + SETTLE_S
            await asyncio.sleep(SETTLE_S)
            self.process_metrics.woke(time.monotonic() - due)
            self.settle_metrics()

    def settle_metrics(self) -> None:
        """Bring all that is tallied or looked at up to date, before somebody looks."""
        self.metrics.settle()
        self.process_metrics.settle()

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run what takes long beside the event loop, in its turn: one at a time, so that the rest isn't starved."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def close(self) -> None:
        for queue in self.queues.values():
            await queue.close()
        await tasks.end(list(self._tasks))
        await self.authenticator.close()
        await self.monitor.close()
        self.request_log.settle()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def next_request_id(self) -> str:
        """Unique over all gateways. Made here always: a client's own id never becomes part of a key."""
        return f"{self._ids}-{next(self._numbers):x}"

    def timeout_ms(self, asked_s: float | None) -> int:
        """How long a request may take: what the client asked for, if it did, and REQUEST_TIMEOUT at the most."""
        return max(1, int(min(asked_s or self._timeout_s, self._timeout_s) * 1000))

    def queue(self, model: str | None) -> ModelQueue:
        """The lane of a model; of the default model for None. Raises UnknownModel.

        The default model's requests are taken before its first worker is up: they wait, as the stream is for.
        """
        name = model or self._model
        queue = self.queues.get(name)
        if queue is None:
            if name != self._model and check_model_name(name) not in self.monitor.models:
                raise UnknownModel(f"model {name!r} not found; available: {', '.join(self.models)}")
            queue = ModelQueue(
                name, self.settings, self.gateway_id, self.metrics.of(name), lambda: self.monitor.capacity(name)
            )
            queue.start(self.watch)
            self.queues[name] = queue
        return queue

    @property
    def models(self) -> list[str]:
        """The models that are served here, whether or not a worker of theirs is ready."""
        return sorted({self.settings.model, *self.monitor.models})

    @property
    def broker_up(self) -> bool:
        return self.monitor.fresh and all(queue.broker_up for queue in self.queues.values())

    @property
    def ready_workers(self) -> dict[str, int]:
        """How many there are, by model."""
        return {model: len(snapshot.ready_workers) for model, snapshot in self.monitor.snapshots.items()}

    @property
    def ready(self) -> bool:
        """Redis is reachable and every model that was asked for here has a worker that is ready."""
        workers = self.ready_workers
        return self.broker_up and all(workers.get(model, 0) > 0 for model in self.queues)

    def info(self, model: str) -> ModelInfo | None:
        """What a worker announced of the model, or None before the first did."""
        return self.monitor.models.get(model)

    def takes(self, model: str) -> tuple[ModelInfo | None, int]:
        """That, and how many rows one request may hold; before the model's first worker is up, as many as this side's
        setting says."""
        info = self.monitor.models.get(model)
        return info, info.max_batch_size if info else self.settings.max_batch_size

    def watch(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task; one that ends by an error is logged."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.critical("a task of the gateway ended", exc_info=error)
