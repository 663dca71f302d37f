"""The sweep: every second it looks after requests that have been outstanding for long, and finds what got lost.

A request that is neither open nor answered was lost by Redis (restarted without its data, failed over, flushed):
it is admitted again, under the same id. The gateway is the durable party.
"""

from __future__ import annotations

import asyncio
import logging
import time

from smartbatch.gateway.core.metrics import ModelMetrics
from smartbatch.gateway.queue.pending import Pending
from smartbatch.shared.broker.queue.admission import MAX_CALL_BYTES, MAX_CALL_REQUESTS, Admission
from smartbatch.shared.broker.queue.replies import Inbox
from smartbatch.shared.errors import BrokerUnavailable

log = logging.getLogger(__name__)

EVERY_S = 1.0
OUTSTANDING_S = 1.0
LOOK_AT = 1000  # requests per look


class Reconciler:
    """One long-lived task per lane."""

    def __init__(
        self, admission: Admission, inbox: Inbox, outstanding: dict[str, Pending], metrics: ModelMetrics
    ) -> None:
        self._admission = admission
        self._inbox = inbox
        self._outstanding = outstanding
        self._metrics = metrics
        self._soon = asyncio.Event()

    def soon(self) -> None:
        """Sweep now: the connection was lost and is back."""
        self._soon.set()

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()
            try:
                await self.reconcile(time.monotonic() - OUTSTANDING_S)
            except BrokerUnavailable as error:
                log.warning("the sweep failed: %s", error)

    async def reconcile(self, admitted_before: float) -> None:
        old = [p for p in self._outstanding.values() if p.admitted and p.admitted_at < admitted_before]
        for start in range(0, len(old), LOOK_AT):
            await self._look_at(old[start : start + LOOK_AT])

    async def _look_at(self, pendings: list[Pending]) -> None:
        # `open` first, then the replies: a request that finishes in between is found by the second look. The
        # other way round it would be in neither and seem lost.
        still_open = await self._admission.still_open([p.request.id for p in pendings])
        absent = [p for p, is_open in zip(pendings, still_open, strict=True) if not is_open]
        if not absent:
            return
        replies = await self._inbox.read([p.request.id for p in absent])
        lost, found = [], []
        for pending, reply in zip(absent, replies, strict=True):
            if reply is not None:
                pending.end(reply)
                found.append(pending.request.id)
            elif not pending.done:
                lost.append(pending)
        if lost:
            await self._admit_again(lost)
        if found:
            await self._inbox.discard(found)

    async def _admit_again(self, lost: list[Pending]) -> None:
        log.warning("admitting %d requests again that the broker lost", len(lost))
        self._metrics.readmissions.inc(len(lost))
        call: list[Pending] = []
        size = 0
        for pending in lost:
            if pending.done:  # given up meanwhile; its cancel may have gone before
                continue
            payload_bytes = len(pending.request.payload)
            if len(call) == MAX_CALL_REQUESTS or (call and size + payload_bytes > MAX_CALL_BYTES):
                await self._admission.admit([p.request for p in call], force=True)
                call, size = [], 0
            call.append(pending)
            size += payload_bytes
        if call:
            await self._admission.admit([p.request for p in call], force=True)
