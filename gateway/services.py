"""The state of a gateway process: model queues, system monitor, metrics. Created and closed by the app's lifespan.

Handlers don't import it. They receive what they need through a narrow protocol (inference/request_services.py) or as
plain arguments.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from smartbatch.gateway.auth.authenticator import Authenticator
from smartbatch.gateway.auth.key_store import KeyStore
from smartbatch.gateway.core.body_memory import BodyMemoryBudget
from smartbatch.gateway.core.metrics import GatewayMetrics
from smartbatch.gateway.core.request_log import RequestLog
from smartbatch.gateway.core.tracing import Tracing, start_tracing
from smartbatch.gateway.http.connection_registry import ConnectionRegistry
from smartbatch.gateway.monitoring.process_metrics import ProcessMetrics
from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.gateway.queue.model_queue import ModelQueue
from smartbatch.gateway.routing.router import Router
from smartbatch.gateway.web.live.events import LiveStream
from smartbatch.gateway.web.paths import MONITORING_SUFFIXES, OPEN_PATHS
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.process import tasks
from smartbatch.shared.settings import Settings
from smartbatch.shared.telemetry import metric_names as names

log = logging.getLogger(__name__)

T = TypeVar("T")

PUBLISH_EVERY_S = 0.5


class GatewayServices:
    """One per process. `gateway_id` is never reused, so that no other gateway reads a dead gateway's inbox."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.gateway_id = uuid.uuid4().hex
        # Generated here: a client's id never becomes part of a Redis key. (`map` calls no Python function.)
        self.request_ids: Iterator[str] = map(f"{self.gateway_id[:16]}-{{:x}}".format, itertools.count(1))
        self.metrics = GatewayMetrics()
        key_requests = names.KEY_REQUESTS.counter(self.metrics.registry)
        key_requests.labels("", "unauthenticated")
        self.authenticator: Authenticator | None = None
        if KeyStore.configured(settings):
            self.authenticator = Authenticator(settings, key_requests, OPEN_PATHS, MONITORING_SUFFIXES)
        self.request_log = RequestLog()
        self.connection_registry = ConnectionRegistry(
            settings.max_connections,
            settings.grace_time,
            self.metrics.connection_closed,
            lambda error: self.request_log.write(error, dict),
        )
        self.body_memory = BodyMemoryBudget(max(settings.max_receiving_bytes, settings.max_body_bytes))
        self.process_metrics = ProcessMetrics(
            self.metrics.registry, lambda: self.connection_registry.connections, self.body_memory
        )
        self.tracing: Tracing | None = start_tracing(self.gateway_id)
        self.queues: dict[str, ModelQueue] = {}
        self.monitor = SystemMonitor(settings, self.gateway_id, self.queues)
        self.router = Router(settings.model_id, self.queues, self.monitor, self._open_queue, self.metrics.remove)
        self.route, self.shadows = self.router.route, self.router.shadows
        self.monitor.on_read = self.router.observe
        self.model_infos: dict[str, ModelInfo] = self.monitor.models
        predicts = settings.management_port < 0  # otherwise the live page is on that port, which needs no key
        self.live = LiveStream(
            self.monitor,
            self.connection_registry,
            settings.model,
            self.authenticator if predicts else None,
            predicts=predicts,
        )
        self.default_queue = self._create_queue(settings.model_id)
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parse")

    async def start(self) -> None:
        self.default_queue.start(self.watch)
        self.watch(self.monitor.run())
        self.watch(self.router.run())
        self.watch(self.live.run())
        if self.authenticator is not None:
            await self.authenticator.start()
            self.watch(self.authenticator.run())
        self.watch(self.connection_registry.run())
        self.watch(self._publish_metrics())
        self.watch(self.request_log.run())

    async def close(self) -> None:
        for queue in self.queues.values():
            await queue.close()
        await tasks.end(list(self._tasks))
        if self.authenticator is not None:
            await self.authenticator.close()
        await self.monitor.close()
        self.request_log.flush()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _open_queue(self, model: str) -> ModelQueue:
        queue = self._create_queue(model)
        queue.start(self.watch)
        return queue

    def _create_queue(self, model: str) -> ModelQueue:
        numbers, capacities = self.monitor.partitions(model), self.monitor.capacities
        queue = ModelQueue(model, numbers, self.settings, self.gateway_id, self.metrics.of(model), capacities)
        self.queues[model] = queue
        return queue

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run a long computation outside the event loop, one at a time so that other threads get CPU time."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def watch(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task and log the error that ends it."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_end)
        return task

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.critical("a gateway task ended with an error", exc_info=error)

    def publish_metrics(self) -> None:
        """Pass the counted values on to Prometheus, before a scrape reads them."""
        self.metrics.publish()
        self.process_metrics.update()

    async def _publish_metrics(self) -> None:
        """Settle regularly: with several processes, one of them answers a scrape from the files of all."""
        while True:
            due = time.monotonic() + PUBLISH_EVERY_S
            await asyncio.sleep(PUBLISH_EVERY_S)
            self.process_metrics.observe_loop_lag(time.monotonic() - due)
            self.publish_metrics()
