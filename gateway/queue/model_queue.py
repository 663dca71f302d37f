"""The queue of one model, as one gateway process sees it: its requests that are outstanding, their deadlines, and the
tasks that exchange entries and replies with the broker."""

from __future__ import annotations

import asyncio
import math
import operator
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from smartbatch.gateway.core.metrics import ModelMetrics
from smartbatch.gateway.queue.admission_control import AdmissionControl
from smartbatch.gateway.queue.queued_request import QueuedRequest
from smartbatch.gateway.queue.reconciler import Reconciler
from smartbatch.gateway.queue.reply_router import ReplyRouter
from smartbatch.gateway.queue.submitter import Submitter
from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, MultiplexedConnection
from smartbatch.shared.broker.queue.admission import Admission, Capacity
from smartbatch.shared.broker.queue.replies import Inbox
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.keys import Keys
from smartbatch.shared.process import tasks
from smartbatch.shared.settings import Settings

# Least time between two checks of deadlines, and so the most that a request ends late by. A check walks over all
# outstanding requests.
DEADLINE_INTERVAL_S = 0.01

MIN_PARTS_AT_ONCE = 4

_deadline_at = operator.attrgetter("deadline_at")


class ModelQueue:
    """Created and closed with the gateway's services; used in their event loop."""

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
        self._reconciler_redis = MultiplexedConnection(settings.broker_url)
        self._blocking_redis = MultiplexedConnection(settings.broker_url, block_s=BLOCK_S)
        self.outstanding: dict[str, QueuedRequest] = {}
        self._deadlines = Deadlines(self.outstanding, self._admission_control.expiry)
        limits: dict[str, Any] = {
            "max_entries": settings.max_queue,
            "max_bytes": settings.max_queue_bytes,
            "body_ttl_s": settings.reply_ttl,
        }
        admission = Admission(self._redis, self.keys, gateway_id, **limits)
        self._submitter = Submitter(admission, metrics, self._admission_control)
        self._reconciler = Reconciler(
            Admission(self._reconciler_redis, self.keys, gateway_id, **limits),
            Inbox(self._reconciler_redis, self.keys, gateway_id),
            self.outstanding,
            metrics,
        )
        inbox = Inbox(self._blocking_redis, self.keys, gateway_id)
        self._router = ReplyRouter(inbox, self.outstanding, metrics, self._on_broker_state)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, watch: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        """Start the tasks. `watch` creates a task and reports when it ends unexpectedly."""
        self._tasks = [watch(self._submitter.run()), watch(self._router.run()), watch(self._reconciler.run())]

    async def close(self) -> None:
        self._deadlines.close()
        await tasks.end(self._tasks)
        for connection in (self._redis, self._reconciler_redis, self._blocking_redis):
            connection.close()

    def check(self, timeout_ms: int) -> None:
        """Reject a request now that the broker would reject later. Raises BrokerUnavailable, QueueFull or
        DeadlineUnattainable."""
        if not self._submitter.broker_up:
            raise BrokerUnavailable("the broker can't be reached", self._admission_control.retry_after_s())
        self._admission_control.check(timeout_ms)

    def check_rows(self, rows: int, timeout_ms: int) -> None:
        """Reject a request of many rows that would be late. Raises DeadlineUnattainable."""
        self._admission_control.check_rows(rows, timeout_ms)

    @property
    def parts_at_once(self) -> int:
        """How many parts of one request keep all workers busy: each has one running, one claimed and one waiting."""
        return max(MIN_PARTS_AT_ONCE, 3 * self._admission_control.capacity().workers)

    def submit(self, request: QueuedRequest) -> None:
        """Send the request's entry to the broker. Call `check` before, and `release` after, whatever the outcome."""
        self.outstanding[request.entry.id] = request
        if request.deadline_at < self._deadlines.next_check_at:
            self._deadlines.check_by(request.deadline_at)
        self._submitter.put(request)

    def release(self, request: QueuedRequest, *, answered: bool) -> None:
        """Remove a request. Without `answered` its entry is cancelled."""
        self.outstanding.pop(request.entry.id, None)
        if not answered:
            self._submitter.cancel(request)

    @property
    def broker_up(self) -> bool:
        return self._submitter.broker_up

    def _on_broker_state(self, up: bool) -> None:
        if up and not self._submitter.broker_up:
            self._reconciler.run_now()
        self._submitter.broker_up = up


class Deadlines:
    """Ends requests at their deadlines. One timer serves all requests of a queue, since nearly none reaches its
    deadline."""

    def __init__(self, outstanding: Mapping[str, QueuedRequest], expiry: Callable[[float], Exception]) -> None:
        """`expiry` makes the error of a request from the seconds that it waited."""
        self._outstanding = outstanding
        self._expiry = expiry
        self.next_check_at = math.inf
        self._checked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def check_by(self, deadline_at: float) -> None:
        """Check no later than at this deadline, which is earlier than `next_check_at`."""
        at = max(deadline_at, self._checked_at + DEADLINE_INTERVAL_S)
        if at < self.next_check_at:
            self._schedule(at)

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _schedule(self, at: float) -> None:
        if self._timer:
            self._timer.cancel()
        self.next_check_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._check)  # the loop's clock is time.monotonic()

    def _check(self) -> None:
        self._checked_at = now = time.monotonic()
        self._timer, self.next_check_at = None, math.inf
        earliest = min(map(_deadline_at, self._outstanding.values()), default=math.inf)
        if earliest <= now:
            earliest = self._end_expired(now)
        if earliest < self.next_check_at:
            self._schedule(max(earliest, now + DEADLINE_INTERVAL_S))

    def _end_expired(self, now: float) -> float:
        """End the requests whose deadline has passed. Returns the earliest deadline of the others."""
        expired: list[QueuedRequest] = []
        earliest = math.inf
        for request in self._outstanding.values():
            if request.deadline_at <= now:
                expired.append(request)
            else:
                earliest = min(earliest, request.deadline_at)
        for request in expired:
            request.end(self._expiry(now - request.started_at))
        return earliest
