"""The publisher sends outcomes to Redis, many in one call.

It retries a failed call, which is harmless, for as long as a client may wait for the reply.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from smartbatch.shared.broker.queue.claims import Outcome, WorkerQueue
from smartbatch.shared.errors import BrokerUnavailable, ModelFailed
from smartbatch.shared.wire import Reply, pack_reply
from smartbatch.worker.core.batch import log_fields
from smartbatch.worker.observability.metrics import WorkerMetrics

log = logging.getLogger(__name__)

MAX_CALL_ENTRIES = 256
MAX_CALL_BYTES = 1024 * 1024
RETRY_S = (0.02, 0.1, 0.25, 0.5)
MAX_FAILURES = 3  # calls for a single reply that failed although calls for others succeeded in between


class PublishCall(msgspec.Struct):
    """Outcomes that are published together."""

    outcomes: list[Outcome]
    first_tried_at: float = 0.0
    failures: int = 0  # of a single reply; see MAX_FAILURES
    successes_before: int = 0  # successful calls at the time of the last failure


class ReplyPublisher:
    """One long-lived task. `put` is called in the event loop; `on_published` follows each successful call."""

    def __init__(self, queue: WorkerQueue, metrics: WorkerMetrics, give_up_after_s: float) -> None:
        self._queue = queue
        self._metrics = metrics
        self._give_up_after_s = give_up_after_s
        self._waiting: list[Outcome] = []
        self._retries: deque[PublishCall] = deque()
        self._successes = 0  # calls
        self._failures = 0  # calls in a row
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self.on_published: Callable[[Sequence[Outcome]], None] = lambda outcomes: None

    def put(self, outcomes: Sequence[Outcome]) -> None:
        self._waiting += outcomes
        self._wake.set()

    async def drain(self) -> None:
        """Wait until everything put so far has been published."""
        self._idle.clear()
        self._wake.set()
        await self._idle.wait()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting or self._retries:
                if self._waiting:
                    await self._publish(PublishCall(self._take()))
                if self._retries:
                    await self._publish(self._retries.popleft())
            self._idle.set()

    def _take(self) -> list[Outcome]:
        """Remove and return as many waiting outcomes as fit into one call."""
        size = 0
        for count, outcome in enumerate(self._waiting):
            size += len(outcome.reply)
            if count == MAX_CALL_ENTRIES or (count and size > MAX_CALL_BYTES):
                break
        else:
            count = len(self._waiting)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    async def _publish(self, call: PublishCall) -> None:
        """Try once. A failed call is split into halves that are retried last: a reply that Redis rejects (for its
        limits, or because the connection is too slow for it) soon has a call of its own and delays no other."""
        call.first_tried_at = call.first_tried_at or time.monotonic()
        try:
            await self._queue.finish(call.outcomes)
        except BrokerUnavailable as error:
            self._metrics.broker_errors.inc()
            self._failures += 1
            self._retry(call, error)
            await asyncio.sleep(RETRY_S[min(self._failures, len(RETRY_S)) - 1])
        else:
            self._failures = 0
            self._successes += 1
            self.on_published(call.outcomes)

    def _retry(self, call: PublishCall, error: BrokerUnavailable) -> None:
        outcomes = call.outcomes
        if time.monotonic() - call.first_tried_at > self._give_up_after_s:
            log.error("gave up publishing %d replies after %.0f s", len(outcomes), self._give_up_after_s)
            self.on_published(outcomes)
            return
        log.warning("publishing %d replies failed, will retry: %s", len(outcomes), error)
        if len(outcomes) > 1:
            half = len(outcomes) // 2
            self._retries += (PublishCall(part, call.first_tried_at) for part in (outcomes[:half], outcomes[half:]))
            return
        if self._successes > call.successes_before:
            call.failures += 1
            call.successes_before = self._successes
        if call.failures >= MAX_FAILURES:
            call.outcomes = [_unpublishable(outcomes[0])]
        self._retries.append(call)


def _unpublishable(outcome: Outcome) -> Outcome:
    """Replace a reply that the broker rejects by an error."""
    size = len(outcome.reply)
    log.error("a reply of %d bytes can't be published", size, extra=log_fields(outcome.entry))
    error = ModelFailed(f"the reply of {size} bytes exceeds the broker's limits")
    return Outcome(outcome.entry, pack_reply(Reply(error=error)), outcome.dead_reason)
