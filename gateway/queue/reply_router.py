"""The reply router: it blocks on the inbox, reads the replies that the inbox only names, and resolves their requests.

The reply key is the truth, the inbox the wake-up and a copy of what is small. What either loses, the sweep finds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from smartbatch.gateway.core.metrics import ModelMetrics
from smartbatch.gateway.queue.pending import Pending
from smartbatch.shared.broker.queue.replies import Inbox, chunks
from smartbatch.shared.errors import BrokerUnavailable

log = logging.getLogger(__name__)

RETRY_S = (0.02, 0.1, 0.25, 0.5)


class ReplyRouter:
    """One long-lived task per lane. Popping takes, so nobody may cancel it but the lane's end."""

    def __init__(
        self, inbox: Inbox, outstanding: dict[str, Pending], metrics: ModelMetrics, on_broker: Callable[[bool], None]
    ) -> None:
        self._inbox = inbox
        self._outstanding = outstanding
        self._metrics = metrics
        self._on_broker = on_broker

    async def run(self) -> None:
        done: list[str] = []
        failures = 0
        while True:
            try:
                notices = await self._inbox.pop(done)
                done = [request_id for request_id, _, _ in notices]
                now = time.monotonic()
                for request_id, _, reply in notices:
                    self._end(request_id, reply, now)
                for ids in chunks(notice for notice in notices if notice.reply is None):
                    await self._read(ids)
                # uvloop sends at the end of a turn: the answers leave before more are asked for.
                await asyncio.sleep(0)
                self._on_broker(True)
                failures = 0
            except BrokerUnavailable as error:
                self._metrics.broker_errors.inc()
                self._on_broker(False)
                if failures == 0:
                    log.warning("reading replies failed: %s", error)
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1

    async def _read(self, ids: list[str]) -> None:
        replies = await self._inbox.read(ids)
        now = time.monotonic()
        for request_id, reply in zip(ids, replies, strict=True):
            self._end(request_id, reply, now)

    def _end(self, request_id: str, reply: bytes | None, now: float) -> None:
        pending = self._outstanding.get(request_id)
        if pending is not None and reply is not None:
            pending.mark_admitted(now)  # its reply may overtake the answer of its admission
            pending.end(reply)
