"""One request on its way: admitted or about to be, and waited for."""

from __future__ import annotations

import asyncio
import time

from shared.broker.admission import Request


class Pending:
    """Made by the lane; resolved once, by whoever comes first: the router, the sweep, the timer, a disconnect."""

    __slots__ = ("admitted", "admitted_at", "deadline_at", "future", "request", "started_at")

    def __init__(self, request: Request, future: asyncio.Future[bytes], started_at: float) -> None:
        self.request = request
        self.future = future
        self.started_at = started_at
        self.deadline_at = started_at + request.timeout_ms / 1000
        self.admitted = False
        self.admitted_at = 0.0

    def mark_admitted(self) -> None:
        if not self.admitted:
            self.admitted = True
            self.admitted_at = time.monotonic()

    def resolve(self, reply: bytes) -> None:
        if not self.future.done():
            self.future.set_result(reply)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
