"""A lane: one model's way from this process to Redis and back. Owns a submitter, a reply router and a sweep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from smartbatch.gateway.core.metrics import ModelMetrics
from smartbatch.gateway.queue.admission_control import AdmissionControl
from smartbatch.gateway.queue.deadlines import Deadlines
from smartbatch.gateway.queue.pending import Outcome, Pending, PendingFuture
from smartbatch.gateway.queue.reconciler import Reconciler
from smartbatch.gateway.queue.reply_router import ReplyRouter
from smartbatch.gateway.queue.submitter import Submitter
from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, MultiplexedConnection
from smartbatch.shared.broker.queue.admission import Admission, Capacity, NewEntry
from smartbatch.shared.broker.queue.replies import Inbox
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.keys import Keys
from smartbatch.shared.process import tasks
from smartbatch.shared.settings import Settings


class ModelQueue:
    """Made and closed by the gateway's lifespan; used by request handlers of the same event loop."""

    def __init__(
        self,
        model: str,
        settings: Settings,
        gateway_id: str,
        metrics: ModelMetrics,
        capacity: Callable[[], Capacity],
    ) -> None:
        self.keys = Keys(model)
        self.metrics = metrics
        self._admission_control = AdmissionControl(settings.max_queue, capacity)
        self._redis = MultiplexedConnection(settings.broker_url)
        self._sweep_redis = MultiplexedConnection(settings.broker_url)
        self._blocking_redis = MultiplexedConnection(settings.broker_url, block_s=BLOCK_S)
        self.outstanding: dict[str, Pending] = {}
        self._deadlines = Deadlines(self.outstanding)
        limits: dict[str, Any] = {
            "max_entries": settings.max_queue,
            "max_bytes": settings.max_queue_bytes,
            "body_ttl_s": settings.reply_ttl,
        }
        admission = Admission(self._redis, self.keys, gateway_id, **limits)
        self._submitter = Submitter(admission, metrics, self._admission_control)
        self._reconciler = Reconciler(
            Admission(self._sweep_redis, self.keys, gateway_id, **limits),
            Inbox(self._sweep_redis, self.keys, gateway_id),
            self.outstanding,
            metrics,
        )
        inbox = Inbox(self._blocking_redis, self.keys, gateway_id)
        self._router = ReplyRouter(inbox, self.outstanding, metrics, self._broker_seen)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, watch: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        """Start the tasks; `watch` makes a task whose unexpected end is noticed."""
        self._tasks = [watch(self._submitter.run()), watch(self._router.run()), watch(self._reconciler.run())]

    async def close(self) -> None:
        self._deadlines.close()
        await tasks.end(self._tasks)
        for connection in (self._redis, self._sweep_redis, self._blocking_redis):
            connection.close()

    def check(self, timeout_ms: int) -> None:
        """Refuse, before any work, what can't be taken now.

        Raises BrokerUnavailable, QueueFull or DeadlineUnattainable."""
        if not self._submitter.broker_up:
            raise BrokerUnavailable("the broker can't be reached", self._admission_control.retry_after_s())
        self._admission_control.check(timeout_ms)

    def submit(self, request: NewEntry, started_at: float) -> PendingFuture:
        """Send a request on its way. `started_at`: monotonic, when it arrived. The caller has called `check`; it
        awaits `pending.future` and then calls `finished`, whatever happened."""
        pending = PendingFuture(request, started_at)
        self._put(pending)
        return pending

    def submit_and_tell(self, request: NewEntry, started_at: float, ended: Callable[[Outcome], None]) -> Pending:
        """The same without a future: `ended` is called with the outcome, and calls `finished`."""
        pending = Pending(request, started_at, ended)
        self._put(pending)
        return pending

    def _put(self, pending: Pending) -> None:
        self.outstanding[pending.request.id] = pending
        self._deadlines.watch(pending)
        self._submitter.put(pending)

    def finished(self, pending: Pending, *, answered: bool) -> None:
        """Forget a request. One that ended without its reply is taken back from the stream."""
        self.outstanding.pop(pending.request.id, None)
        pending.abandon()
        if not answered:
            self._submitter.cancel(pending)

    @property
    def broker_up(self) -> bool:
        return self._submitter.broker_up

    def _broker_seen(self, up: bool) -> None:
        if up and not self._submitter.broker_up:
            self._reconciler.soon()
        self._submitter.broker_up = up
