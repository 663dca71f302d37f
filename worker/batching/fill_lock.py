"""One worker's side of the fill lock. Its holder alone waits to fill a batch, so idle workers never tear one batch into
several small ones. Claims take it (docs/protocol.md)."""

from __future__ import annotations

import asyncio
import logging
import math

from smartbatch.shared.broker.queue.claims import WorkerQueue
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.worker.core.batch import Limits

log = logging.getLogger(__name__)

SLACK_MS = 100  # how long the lock outlasts the window


class FillLock:
    """Owned by the batcher."""

    def __init__(self, queue: WorkerQueue) -> None:
        self._queue = queue
        self.may_hold = False  # since the last batch a claim may have taken it
        self._releases: set[asyncio.Task[None]] = set()

    def release(self) -> None:
        """Release the lock without waiting for the reply. If the call gets lost, the lock expires by itself."""
        task = asyncio.create_task(self._try_release())
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _try_release(self) -> None:
        try:
            await self._queue.release()
        except BrokerUnavailable as error:
            log.warning("release of the fill lock failed: %s", error)


def hold_ms(seconds: float, limits: Limits) -> int:
    """Return for how long a claim takes the lock to wait for `seconds`; 0 if no batch waits."""
    return math.ceil(seconds * 1000) + SLACK_MS if limits.window_s > 0 else 0
