"""Waits for the notices in this gateway's inbox and ends each request with its reply.

The reply's key is authoritative. The inbox wakes the router and contains copies of small replies. The reconciler finds
replies whose notice was lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from smartbatch.gateway.core.metrics import ModelMetrics
from smartbatch.gateway.queue.queued_request import QueuedRequest
from smartbatch.shared.broker.queue.replies import Inbox, chunks
from smartbatch.shared.errors import BrokerUnavailable

log = logging.getLogger(__name__)

RETRY_S = (0.02, 0.1, 0.25, 0.5)


class ReplyRouter:
    """One long-lived task per partition. It is cancelled only when the queue closes: a cancelled pop may lose
    notices."""

    def __init__(
        self,
        inbox: Inbox,
        outstanding: Mapping[str, QueuedRequest],
        metrics: ModelMetrics,
        on_broker_state: Callable[[bool], None],
    ) -> None:
        self._inbox = inbox
        self._outstanding = outstanding
        self._metrics = metrics
        self._on_broker_state = on_broker_state

    async def run(self) -> None:
        done: list[str] = []
        failures = 0
        while True:
            try:
                if failures:
                    await self._inbox.check()  # a pop that finds nothing would take a second to tell
                    self._on_broker_state(True)
                notices = await self._inbox.pop(done)
                done = [request_id for request_id, _, _ in notices]
                now = time.monotonic()
                for request_id, _, reply in notices:
                    self._end(request_id, reply, now)
                for ids in chunks(notice for notice in notices if notice.reply is None):
                    await self._read(ids)
                # uvloop sends at the end of an iteration, so the responses are sent before more replies are awaited.
                await asyncio.sleep(0)
                self._on_broker_state(True)
                failures = 0
            except BrokerUnavailable as error:
                self._metrics.broker_errors.inc()
                if failures == 0:
                    log.warning("reading replies failed: %s", error)
                self._on_broker_state(False)
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1

    async def _read(self, ids: list[str]) -> None:
        replies = await self._inbox.read(ids)
        now = time.monotonic()
        for request_id, reply in zip(ids, replies, strict=True):
            self._end(request_id, reply, now)

    def _end(self, request_id: str, reply: bytes | None, now: float) -> None:
        request = self._outstanding.get(request_id)
        if request is not None and reply is not None:
            if not request.admitted_at:  # the reply may arrive before the answer to `admit`
                request.admitted_at = now
            request.end(reply)
