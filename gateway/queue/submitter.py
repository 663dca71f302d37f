"""Sends a model's requests to the broker. Requests that arrive while a call is in flight are sent in the next one.

No request handler awaits Redis, so a client that disconnects can't cancel a call half-way.
"""

from __future__ import annotations

import asyncio
import logging
import time

from smartbatch.gateway.core.metrics import ModelMetrics
from smartbatch.gateway.queue.admission_control import AdmissionControl
from smartbatch.gateway.queue.queued_request import QueuedRequest
from smartbatch.shared.broker.queue.admission import MAX_CALL_BYTES, MAX_CALL_REQUESTS, Admission, AdmitStatus
from smartbatch.shared.errors import BrokerFull, BrokerUnavailable

log = logging.getLogger(__name__)

RESEND_FOR_S = 1.0  # how long an unanswered flush is sent again before its clients get a 503
RESEND_EVERY_S = 0.05
DOWN_AFTER_S = 0.5  # of failures; a planned change of the primary takes less, and rejects no request then


class Submitter:
    """One long-lived task per model queue. Request handlers call `put` and `cancel`, which never wait."""

    def __init__(self, admission: Admission, metrics: ModelMetrics, admission_control: AdmissionControl) -> None:
        self._admission = admission
        self._metrics = metrics
        self._admission_control = admission_control
        self._unsent: list[QueuedRequest] = []
        self._cancels: list[str] = []
        self._wake = asyncio.Event()
        self.broker_up = True

    def put(self, request: QueuedRequest) -> None:
        self._unsent.append(request)
        self._wake.set()

    def cancel(self, request: QueuedRequest) -> None:
        """Cancel a request that has no reply, which makes room in the queue. If it hasn't been sent, it never is."""
        if request.admitted_at:
            self._cancels.append(request.entry.id)
            self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._unsent or self._cancels:
                if self._cancels:
                    await self._send_cancels()
                if flush := self._next_flush():
                    await self._send(flush)

    def _next_flush(self) -> list[QueuedRequest]:
        """Take as many requests as fit into one call. Drop those that have ended."""
        flush: list[QueuedRequest] = []
        size = 0
        taken = 0
        for request in self._unsent:
            payload_bytes = len(request.entry.payload)
            if len(flush) == MAX_CALL_REQUESTS or (flush and size + payload_bytes > MAX_CALL_BYTES):
                break
            taken += 1
            if request.waiting:
                flush.append(request)
                size += payload_bytes
        self._unsent = self._unsent[taken:]
        return flush

    async def _send(self, flush: list[QueuedRequest]) -> None:
        """Admit the requests; repeat the call while the broker doesn't answer, which is safe. Afterwards every request
        of `flush` is admitted or has ended."""
        began_at = time.monotonic()
        entries = [request.entry for request in flush]
        while True:
            try:
                result = await self._admission.admit(entries, capacity=self._admission_control.capacity())
                break
            except BrokerFull as error:
                self._cancels += [
                    entry.id for entry in entries
                ]  # an external payload was refused, but entries may have been admitted
                self._fail(flush, BrokerFull(error.detail, self._admission_control.retry_after_s()))
                return
            except BrokerUnavailable as error:
                now = time.monotonic()
                if now >= began_at + DOWN_AFTER_S:
                    self.broker_up = False
                self._metrics.broker_errors.inc()
                log.warning("admitting %d requests failed: %s", len(flush), error)
                if now >= began_at + RESEND_FOR_S:
                    self._cancels += [entry.id for entry in entries]  # the call may have reached the broker
                    self._fail(flush, error)
                    return
                await asyncio.sleep(RESEND_EVERY_S)
        self.broker_up = True
        self._metrics.flushes.inc()
        rejected = []
        now = time.monotonic()
        for request, status in zip(flush, result.statuses, strict=True):
            if status is not AdmitStatus.ADMITTED:
                rejected.append((request, status))
                continue
            if not request.admitted_at:
                request.admitted_at = now
            if not request.waiting:  # it ended while the call was in flight
                self._cancels.append(request.entry.id)
        self._admission_control.update(result, [(request.entry, status) for request, status in rejected])
        for request, status in rejected:
            entry = request.entry
            request.end(self._admission_control.rejection(status, entry.timeout_ms, entry.rows, entry.bytes))

    async def _send_cancels(self) -> None:
        cancels, self._cancels = self._cancels[:MAX_CALL_REQUESTS], self._cancels[MAX_CALL_REQUESTS:]
        try:
            await self._admission.cancel(cancels)
        except BrokerUnavailable as error:
            # Not repeated: it costs less to run the requests and let their replies expire.
            log.warning("cancelling %d requests failed: %s", len(cancels), error)

    def _fail(self, flush: list[QueuedRequest], error: BrokerUnavailable) -> None:
        for request in flush:
            request.end(error)
