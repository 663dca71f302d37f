"""Finishing: what batches produced leaves for Redis, everything that gathered in one call.

Nothing is given up while anybody may still wait for it: a failed call is repeated, which is harmless.
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
UNPUBLISHABLE = 3  # failures of one reply alone, while others get through


class PackedBatch(msgspec.Struct):
    """Outcomes that leave together."""

    outcomes: list[Outcome]
    first_tried_at: float = 0.0
    failures: int = 0  # while others got through in between
    others: int = 0  # how many parcels had got through at its last failure


class ReplyPublisher:
    """One long-lived task. `put` is called from the event loop; `on_finished` after each call that went through."""

    def __init__(self, claims: WorkerQueue, metrics: WorkerMetrics, give_up_after_s: float) -> None:
        self._claims = claims
        self._metrics = metrics
        self._give_up_after_s = give_up_after_s
        self._waiting: list[Outcome] = []
        self._again: deque[PackedBatch] = deque()
        self._through = 0  # parcels that got through
        self._failing = 0  # tries in a row that failed
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self.on_finished: Callable[[Sequence[Outcome]], None] = lambda outcomes: None

    def put(self, outcomes: Sequence[Outcome]) -> None:
        self._waiting += outcomes
        self._wake.set()

    async def drain(self) -> None:
        """Return when everything put so far has left."""
        self._idle.clear()
        self._wake.set()
        await self._idle.wait()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting or self._again:
                if self._waiting:
                    await self._send(PackedBatch(self._cut()))
                if self._again:
                    await self._send(self._again.popleft())
            self._idle.set()

    def _cut(self) -> list[Outcome]:
        size = 0
        for count, outcome in enumerate(self._waiting):
            size += len(outcome.reply)
            if count == MAX_CALL_ENTRIES or (count and size > MAX_CALL_BYTES):
                break
        else:
            count = len(self._waiting)
        flush, self._waiting = self._waiting[:count], self._waiting[count:]
        return flush

    async def _send(self, parcel: PackedBatch) -> None:
        """Try once. What doesn't get through goes to the back, in halves: so one reply that Redis won't take (larger
        than its limits, or than the link can carry in time) is soon alone, and holds up no other."""
        parcel.first_tried_at = parcel.first_tried_at or time.monotonic()
        try:
            await self._claims.finish(parcel.outcomes)
        except BrokerUnavailable as error:
            self._metrics.broker_errors.inc()
            self._failing += 1
            self._try_again(parcel, error)
            await asyncio.sleep(RETRY_S[min(self._failing, len(RETRY_S)) - 1])
        else:
            self._failing = 0
            self._through += 1
            self.on_finished(parcel.outcomes)

    def _try_again(self, parcel: PackedBatch, error: BrokerUnavailable) -> None:
        outcomes = parcel.outcomes
        if time.monotonic() - parcel.first_tried_at > self._give_up_after_s:
            log.error("gave up publishing %d replies after %.0f s", len(outcomes), self._give_up_after_s)
            self.on_finished(outcomes)
            return
        log.warning("publishing %d replies failed and is repeated: %s", len(outcomes), error)
        if len(outcomes) > 1:
            half = len(outcomes) // 2
            self._again += (PackedBatch(part, parcel.first_tried_at) for part in (outcomes[:half], outcomes[half:]))
            return
        if self._through > parcel.others:
            parcel.failures += 1
            parcel.others = self._through
        if parcel.failures >= UNPUBLISHABLE:
            parcel.outcomes = [_unpublishable(outcomes[0])]
        self._again.append(parcel)


def _unpublishable(outcome: Outcome) -> Outcome:
    size = len(outcome.reply)
    log.error("an answer of %d bytes can't be published", size, extra=log_fields(outcome.entry))
    error = ModelFailed(f"the answer of {size} bytes is more than the broker takes")
    return Outcome(outcome.entry, pack_reply(Reply(error=error)), outcome.dead_reason)
