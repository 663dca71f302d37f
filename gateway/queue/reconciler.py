"""Compares requests that have been outstanding for over a second with the broker, and recovers lost ones.

A request that is neither inflight nor answered was lost by Redis (restarted without its data, failed over, flushed).
It is admitted again, under the same id: the gateway keeps every request until it is answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from smartbatch.gateway.core.metrics import ModelMetrics
from smartbatch.gateway.queue.queued_request import QueuedRequest
from smartbatch.shared.broker.queue.admission import MAX_CALL_BYTES, MAX_CALL_REQUESTS, Admission
from smartbatch.shared.broker.queue.replies import Inbox
from smartbatch.shared.errors import BrokerUnavailable

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
MIN_AGE_S = 1.0
MAX_CHECKED = 1000  # requests per call


class Reconciler:
    """One long-lived task per partition."""

    def __init__(
        self,
        admission: Admission,
        inbox: Inbox,
        requests: Callable[[], Sequence[QueuedRequest]],
        metrics: ModelMetrics,
    ) -> None:
        """`requests()` returns the outstanding requests of the partition."""
        self._admission = admission
        self._inbox = inbox
        self._requests = requests
        self._metrics = metrics
        self._wake = asyncio.Event()

    def run_now(self) -> None:
        """Reconcile now, because the connection was lost and is back."""
        self._wake.set()

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(INTERVAL_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self.reconcile(time.monotonic() - MIN_AGE_S)
            except BrokerUnavailable as error:
                log.warning("reconciling outstanding requests failed: %s", error)

    async def reconcile(self, admitted_before: float) -> None:
        old = [request for request in self._requests() if 0 < request.admitted_at < admitted_before]
        for start in range(0, len(old), MAX_CHECKED):
            await self._check(old[start : start + MAX_CHECKED])

    async def _check(self, requests: list[QueuedRequest]) -> None:
        # Inflight requests first, then replies: the second call finds a request that finishes in between. In the other
        # order neither call would find it, and it would seem lost.
        inflight = await self._admission.are_inflight([request.entry.id for request in requests])
        absent = [request for request, is_inflight in zip(requests, inflight, strict=True) if not is_inflight]
        if not absent:
            return
        replies = await self._inbox.read([request.entry.id for request in absent])
        lost_ids, found = set(), []
        for request, reply in zip(absent, replies, strict=True):
            if reply is not None:
                request.end(reply)
                found.append(request.entry.id)
            else:
                lost_ids.add(request.entry.id)
        # Of those that the partition still has: meanwhile some may have ended or moved to another one.
        lost = [request for request in self._requests() if request.entry.id in lost_ids] if lost_ids else []
        if lost:
            log.warning("readmitting %d requests that the broker lost", len(lost))
            await self.admit_again(lost)
        if found:
            await self._inbox.discard(found)

    async def admit_again(self, lost: Sequence[QueuedRequest]) -> None:
        """Admit requests that were admitted before, whatever waits by now. Raises BrokerUnavailable."""
        self._metrics.readmissions.inc(len(lost))
        call: list[QueuedRequest] = []
        size = 0
        for request in lost:
            if not request.waiting:  # it ended during an earlier call, and its cancel may already have been sent
                continue
            payload_bytes = len(request.entry.payload)
            if len(call) == MAX_CALL_REQUESTS or (call and size + payload_bytes > MAX_CALL_BYTES):
                await self._admission.admit([each.entry for each in call], force=True)
                call, size = [], 0
            call.append(request)
            size += payload_bytes
        if call:
            await self._admission.admit([each.entry for each in call], force=True)
