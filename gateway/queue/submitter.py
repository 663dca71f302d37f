"""The submitter: everything that arrived since its last flush leaves in one call; while that is in flight, the
next one gathers. No request handler ever awaits Redis, so a client that hangs up can't cancel a call half-way."""

from __future__ import annotations

import asyncio
import logging
import time

from smartbatch.gateway.core.metrics import ModelMetrics
from smartbatch.gateway.queue.admission_control import AdmissionControl
from smartbatch.gateway.queue.pending import Pending
from smartbatch.shared.broker.queue.admission import MAX_CALL_BYTES, MAX_CALL_REQUESTS, Admission, AdmitStatus
from smartbatch.shared.errors import BrokerFull, BrokerUnavailable

log = logging.getLogger(__name__)

RESEND_FOR_S = 1.0  # how long an unanswered flush is sent again before its clients get a 503
RESEND_EVERY_S = 0.05


class Submitter:
    """One long-lived task per lane. `put` and `cancel` are called by request handlers and never wait."""

    def __init__(self, admission: Admission, metrics: ModelMetrics, admission_control: AdmissionControl) -> None:
        self._admission = admission
        self._metrics = metrics
        self._admission_control = admission_control
        self._waiting: list[Pending] = []
        self._cancels: list[str] = []
        self._wake = asyncio.Event()
        self.broker_up = True

    def put(self, pending: Pending) -> None:
        self._waiting.append(pending)
        self._wake.set()

    def cancel(self, pending: Pending) -> None:
        """Free the place of a request nobody waits for. One that has not left yet just isn't sent."""
        if pending.admitted:
            self._cancels.append(pending.request.id)
            self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting or self._cancels:
                if self._cancels:
                    await self._send_cancels()
                if flush := self._cut():
                    await self._send(flush)

    def _cut(self) -> list[Pending]:
        """Take what fits one call; leave out what nobody waits for any more."""
        flush: list[Pending] = []
        size = 0
        taken = 0
        for pending in self._waiting:
            payload_bytes = len(pending.request.payload)
            if len(flush) == MAX_CALL_REQUESTS or (flush and size + payload_bytes > MAX_CALL_BYTES):
                break
            taken += 1
            if not pending.done:
                flush.append(pending)
                size += payload_bytes
        self._waiting = self._waiting[taken:]
        return flush

    async def _send(self, flush: list[Pending]) -> None:
        """Admit; on silence send again, which is harmless. Every pending of `flush` is admitted or failed."""
        give_up_at = time.monotonic() + RESEND_FOR_S
        requests = [pending.request for pending in flush]
        while True:
            try:
                answer = await self._admission.admit(requests, capacity=self._admission_control.capacity())
                break
            except BrokerFull as error:
                self._cancels += [request.id for request in requests]  # a body was refused, and its entry perhaps not
                self._fail(flush, BrokerFull(error.detail, self._admission_control.retry_after_s()))
                return
            except BrokerUnavailable as error:
                self.broker_up = False
                self._metrics.broker_errors.inc()
                log.warning("admitting %d requests failed: %s", len(flush), error)
                if time.monotonic() >= give_up_at:
                    self._cancels += [request.id for request in requests]  # it may have got through
                    self._fail(flush, error)
                    return
                await asyncio.sleep(RESEND_EVERY_S)
        self.broker_up = True
        self._metrics.flushes.inc()
        refused = []
        now = time.monotonic()
        for pending, status in zip(flush, answer.statuses, strict=True):
            if status is AdmitStatus.ADMITTED:
                pending.mark_admitted(now)
                if pending.done:  # it gave up while the call was in flight
                    self._cancels.append(pending.request.id)
            else:
                refused.append((pending, status))
        self._admission_control.learned(answer, [(pending.request, status) for pending, status in refused])
        for pending, status in refused:
            pending.end(self._admission_control.refusal(status, pending.request.timeout_ms, pending.request.rows))

    async def _send_cancels(self) -> None:
        cancels, self._cancels = self._cancels[:MAX_CALL_REQUESTS], self._cancels[MAX_CALL_REQUESTS:]
        try:
            await self._admission.cancel(cancels)
        except BrokerUnavailable as error:
            # They run for nobody and their replies expire; sending this again later would cost more than that.
            log.warning("cancelling %d requests failed: %s", len(cancels), error)

    def _fail(self, flush: list[Pending], error: BrokerUnavailable) -> None:
        for pending in flush:
            pending.end(error)
