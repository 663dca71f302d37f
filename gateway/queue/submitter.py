"""Sends a model's requests to the broker. Requests that arrive while a call is in flight are sent in the next one.

No request handler awaits Redis, so a client that disconnects can't cancel a call half-way.

With several partitions each flush goes to one of them. As long as brokers answer quickly one call is in flight at a
time, so flushes are as large as with one partition. A broker that is slow to answer does not hold up the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from smartbatch.gateway.core.metrics import ModelMetrics
from smartbatch.gateway.queue.choice import choose
from smartbatch.gateway.queue.partition import Partition, assign
from smartbatch.gateway.queue.queued_request import QueuedRequest
from smartbatch.shared.broker.queue.admission import MAX_CALL_BYTES, MAX_CALL_REQUESTS, AdmitResult, AdmitStatus
from smartbatch.shared.errors import BrokerFull, BrokerUnavailable
from smartbatch.shared.process import tasks

log = logging.getLogger(__name__)

RESEND_FOR_S = 1.0  # how long an unanswered flush is sent again before its clients get a 503
RESEND_EVERY_S = 0.05
SLOW_S = 0.02  # after so long without an answer the next flush goes to another partition


class Submitter:
    """One long-lived task per model queue. Request handlers call `put`, which never waits.

    `partitions()` returns those that requests may be sent to: all that answer, or all if none does.
    """

    def __init__(
        self, metrics: ModelMetrics, partitions: Callable[[], Sequence[Partition]], only_one: Callable[[], bool]
    ) -> None:
        """`only_one()`: whether the model has a single partition, used or not."""
        self._metrics = metrics
        self._partitions = partitions
        self._only_one = only_one
        self._slow: dict[Partition, asyncio.Task[None]] = {}  # their calls in flight
        self._unsent: list[QueuedRequest] = []
        self._wake = asyncio.Event()

    def put(self, request: QueuedRequest) -> None:
        if request.partition is not None:  # it was sent before
            assign(request, None)
        self._unsent.append(request)
        self._wake.set()

    async def run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._unsent:
                    await self._send_next()
        finally:
            await tasks.end(self._slow.values())

    async def _send_next(self) -> None:
        """Send a flush, and wait for the broker's answer unless that takes long."""
        among = self._partitions()
        if self._only_one():
            if flush := self._next_flush(among[0], MAX_CALL_REQUESTS):
                await self._admit(among[0], flush)
            return
        quick = [partition for partition in among if partition not in self._slow]
        if not quick:
            await asyncio.wait(self._slow.values(), timeout=SLOW_S, return_when=asyncio.FIRST_COMPLETED)
            return
        partition = choose(quick)
        # More than it may hold would be rejected, while others have room.
        if flush := self._next_flush(partition, min(MAX_CALL_REQUESTS, partition.admission_control.max_entries)):
            call = asyncio.create_task(self._admit(partition, flush))
            self._slow[partition] = call
            call.add_done_callback(lambda call: self._slow.pop(partition))
            await asyncio.wait((call,), timeout=SLOW_S)

    def _next_flush(self, partition: Partition, most: int) -> list[QueuedRequest]:
        """Take at most so many requests, as fit into one call, and assign them to the partition. Drop those that have
        ended."""
        flush: list[QueuedRequest] = []
        size = 0
        taken = 0
        for request in self._unsent:
            payload_bytes = len(request.entry.payload)
            if len(flush) == most or (flush and size + payload_bytes > MAX_CALL_BYTES):
                break
            taken += 1
            if request.waiting:
                assign(request, partition)
                flush.append(request)
                size += payload_bytes
        self._unsent = self._unsent[taken:]
        return flush

    async def _admit(self, partition: Partition, flush: list[QueuedRequest]) -> None:
        """Admit the requests, repeating the call while the broker doesn't answer, which is safe. Afterwards each has
        been admitted or has ended, or goes to another partition."""
        resend_until = time.monotonic() + RESEND_FOR_S
        while True:
            try:
                result = await partition.admit(flush)
                break
            except BrokerUnavailable as error:
                full = isinstance(error, BrokerFull)
                if not full:
                    self._metrics.broker_errors.inc()
                    log.warning("admitting %d requests to %s failed: %s", len(flush), partition.keys.tag, error)
                elsewhere = partition not in self._partitions()
                if not (elsewhere or full) and time.monotonic() < resend_until:
                    await asyncio.sleep(RESEND_EVERY_S)
                    continue
                # The call may have reached the broker, or some payloads were stored.
                partition.cancel(request.entry.id for request in flush)
                if full and not elsewhere:
                    error = BrokerFull(error.detail, partition.admission_control.retry_after_s())
                for request in flush:
                    if request.partition is not partition:  # it has moved
                        continue
                    if elsewhere:
                        self.put(request)
                    else:
                        request.end(error)
                return
        self._metrics.flushes.inc()
        self._admitted(partition, flush, result)

    def _admitted(self, partition: Partition, flush: list[QueuedRequest], result: AdmitResult) -> None:
        rejected = []
        now = time.monotonic()
        for request, status in zip(flush, result.statuses, strict=True):
            if status is not AdmitStatus.ADMITTED:
                rejected.append((request, status))
                continue
            if not request.waiting or request.partition is not partition:  # it ended or moved meanwhile
                partition.cancel((request.entry.id,))
            elif not request.admitted_at:
                request.admitted_at = now
        control = partition.admission_control
        control.update(result, [(request.entry, status) for request, status in rejected])
        for request, status in rejected:
            if request.partition is partition:
                entry = request.entry
                request.end(control.rejection(status, entry.timeout_ms, entry.rows, entry.bytes))
