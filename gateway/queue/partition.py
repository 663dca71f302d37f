"""One partition of a model's queue, as one gateway process sees it: admission, replies, reconciliation, and whether its
broker answers."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from smartbatch.gateway.core.metrics import ModelMetrics
from smartbatch.gateway.queue.admission_control import AdmissionControl
from smartbatch.gateway.queue.queued_request import QueuedRequest
from smartbatch.gateway.queue.reconciler import Reconciler
from smartbatch.gateway.queue.reply_router import ReplyRouter
from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, MultiplexedConnection
from smartbatch.shared.broker.queue.admission import MAX_CALL_REQUESTS, Admission, AdmitResult, Capacity
from smartbatch.shared.broker.queue.replies import Inbox
from smartbatch.shared.errors import BrokerFull, BrokerUnavailable
from smartbatch.shared.keys import Keys
from smartbatch.shared.process import tasks
from smartbatch.shared.settings import Settings

log = logging.getLogger(__name__)

SILENT_S = 0.1  # a broker that leaves a call unanswered for so long gets no more requests until it answers
FULL_S = 1.0  # a broker without memory gets no requests for so long
CANCEL_RETRY_S = 0.5
MAX_CANCELS = 100_000  # kept while the broker is away; their requests run for nothing if there are more

Watch = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Partition:
    """Owned by the model queue. `on_state()` is called when its broker is lost, back or full."""

    def __init__(
        self,
        tag: str,
        settings: Settings,
        gateway_id: str,
        metrics: ModelMetrics,
        outstanding: Mapping[str, QueuedRequest],
        capacity: Callable[[], Capacity],
    ) -> None:
        self.keys = keys = Keys(tag)
        self.admission_control = AdmissionControl(settings.max_queue, capacity)
        self.broker_up = True
        self.leaving = False  # takes no requests any more
        self.favourite = True  # of this gateway, see choice.py
        self.unanswered_rows = 0  # of the requests that it has, see `assign`
        self.on_state: Callable[[], None] = lambda: None
        self._limits = (settings.max_queue, settings.max_queue_bytes)
        self._outstanding = outstanding
        self._unanswered_since = math.inf  # a call to admit, or the loss of the broker
        self._full_at = -math.inf  # when the broker last had no memory
        self._without_workers_since = math.inf  # while other partitions have some
        self._cancels: deque[str] = deque(maxlen=MAX_CANCELS)
        self._wake_cancels = asyncio.Event()
        url = settings.broker_url
        self._command = MultiplexedConnection(url, keys.requests)
        self._reconciling = MultiplexedConnection(url, keys.requests)
        self._blocking = MultiplexedConnection(url, keys.requests, block_s=BLOCK_S)
        limits: dict[str, Any] = {
            "max_entries": settings.max_queue,
            "max_bytes": settings.max_queue_bytes,
            "body_ttl_s": settings.reply_ttl,
        }
        self._admission = Admission(self._command, keys, gateway_id, **limits)
        self._reconciler = Reconciler(
            Admission(self._reconciling, keys, gateway_id, **limits),
            Inbox(self._reconciling, keys, gateway_id),
            self.requests,
            metrics,
        )
        inbox = Inbox(self._blocking, keys, gateway_id)
        self._router = ReplyRouter(inbox, outstanding, metrics, self._on_broker_state)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, watch: Watch) -> None:
        running = (self._router.run(), self._reconciler.run(), self._send_cancels())
        self._tasks = [watch(each) for each in running]

    async def close(self) -> None:
        await tasks.end(self._tasks)
        for connection in (self._command, self._reconciling, self._blocking):
            connection.close()

    def requests(self) -> list[QueuedRequest]:
        """Return the outstanding requests of this partition."""
        return [request for request in self._outstanding.values() if request.partition is self]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: no request is outstanding, no call unanswered, and all cancels were sent."""
        return not (self.requests() or self._cancels or self.unanswered_s(time.monotonic()))

    def share_limits(self, partitions: int) -> None:
        """Apply its part of MAX_QUEUE and MAX_QUEUE_BYTES, of which each of so many partitions has the same."""
        max_entries, max_bytes = self._limits
        self.admission_control.max_entries = math.ceil(max_entries / partitions)
        self._admission.limits = (self.admission_control.max_entries, math.ceil(max_bytes / partitions))

    # --- where to send a request

    @property
    def workers(self) -> int:
        """The number of ready workers."""
        return self.admission_control.capacity().workers

    @property
    def has_workers(self) -> bool:
        return self.workers > 0

    def takes_requests(self, now: float) -> bool:
        """Whether its broker answers and has had memory lately."""
        return self.broker_up and self.unanswered_s(now) < SILENT_S and now - self._full_at > FULL_S

    def unanswered_s(self, now: float) -> float:
        """Return for how long the broker has left a call unanswered, or has been away; 0 while it answers."""
        return max(0.0, now - self._unanswered_since)

    def stuck_s(self, now: float, *, others_have_workers: bool) -> float:
        """Return for how long its requests have had no chance of a reply: the broker is away, or only the others have
        workers."""
        if self.has_workers or not others_have_workers:
            self._without_workers_since = math.inf
        else:
            self._without_workers_since = min(self._without_workers_since, now)
        return max(self.unanswered_s(now), now - self._without_workers_since)

    @property
    def rows_per_s(self) -> float:
        """The rate of its ready workers; 0 if it is not known."""
        return self.admission_control.capacity().rows_per_s

    # --- calls

    async def admit(self, requests: Sequence[QueuedRequest]) -> AdmitResult:
        """Admit requests that are new. Raises BrokerFull or BrokerUnavailable, as Admission.admit does."""
        self._unanswered_since = min(self._unanswered_since, time.monotonic())
        try:
            result = await self._admission.admit(
                [request.entry for request in requests], capacity=self.admission_control.capacity()
            )
        except BrokerFull:
            self._full_at = time.monotonic()
            self._on_broker_state(True)
            self.on_state()
            raise
        except BrokerUnavailable:
            self._on_broker_state(False)
            raise
        self._on_broker_state(True)
        return result

    async def take_over(self, requests: Sequence[QueuedRequest]) -> None:
        """Admit requests that were admitted elsewhere, whatever waits here. Raises BrokerUnavailable."""
        await self._reconciler.admit_again(requests)

    def cancel(self, request_ids: Iterable[str]) -> None:
        """Remove requests from the stream, once the broker can be reached. That makes room in the queue."""
        self._cancels.extend(request_ids)
        self._wake_cancels.set()

    async def _send_cancels(self) -> None:
        while True:
            await self._wake_cancels.wait()
            self._wake_cancels.clear()
            while self._cancels and self.broker_up:
                ids = [self._cancels.popleft() for _ in range(min(len(self._cancels), MAX_CALL_REQUESTS))]
                ids = [request_id for request_id in ids if not self._has(request_id)]
                if not ids:
                    continue
                try:
                    await self._admission.cancel(ids)
                except BrokerUnavailable as error:
                    log.warning("cancelling %d requests failed: %s", len(ids), error)
                    self._cancels.extend(ids)
                    await asyncio.sleep(CANCEL_RETRY_S)

    def _has(self, request_id: str) -> bool:
        """Whether a request is waited for here, since it came back after it was to be cancelled."""
        request = self._outstanding.get(request_id)
        return request is not None and request.waiting and request.partition is self

    def _on_broker_state(self, up: bool) -> None:
        was_up, self.broker_up = self.broker_up, up
        if up:
            self._unanswered_since = math.inf
        else:
            self._unanswered_since = min(self._unanswered_since, time.monotonic())
        if up is was_up:
            return
        if up:
            self._reconciler.run_now()
            self._wake_cancels.set()
        self.on_state()


def assign(request: QueuedRequest, partition: Partition | None) -> None:
    """Make a request one of this partition's, and of no other's; of none while it waits to be sent, and at its end."""
    rows = request.entry.rows
    if request.partition is not None:
        request.partition.unanswered_rows -= rows
    if partition is not None:
        partition.unanswered_rows += rows
    request.partition = partition
