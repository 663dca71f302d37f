"""A request in a model queue that stands in for an InferenceRequest."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from smartbatch.gateway.queue.queued_request import Outcome
from smartbatch.shared.broker.queue.admission import NewEntry


class Queued:
    """Implements QueuedRequest. `future` has the outcome."""

    def __init__(self, entry: NewEntry, started_at: float | None = None) -> None:
        self.entry = entry
        self.started_at = time.monotonic() if started_at is None else started_at
        self.deadline_at = self.started_at + entry.timeout_ms / 1000
        self.admitted_at = 0.0
        self.partition: Any = None
        self.waiting = True
        self.future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def move_to(self, queue: Any) -> bool:
        return True

    def end(self, outcome: Outcome) -> None:
        if not self.waiting:
            return
        self.waiting = False
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)
