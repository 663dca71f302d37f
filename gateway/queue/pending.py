"""One request on its way: admitted or about to be, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from smartbatch.shared.broker.queue.admission import NewEntry

Outcome = bytes | Exception  # the packed reply, or why there is none


class Pending:
    """Made by the lane; ended once, by whoever comes first: the router, the sweep, its deadline, a disconnect.

    `ended` is told the outcome at once, in the event loop. It raises nothing, and isn't held any longer than that: a
    request that lay in a cycle of references would keep its body until the collector came by.
    """

    __slots__ = ("_ended", "admitted", "admitted_at", "deadline_at", "request", "started_at")

    def __init__(self, request: NewEntry, started_at: float, ended: Callable[[Outcome], None]) -> None:
        self.request = request
        self.started_at = started_at
        self._ended: Callable[[Outcome], None] | None = ended
        self.deadline_at = started_at + request.timeout_ms / 1000
        self.admitted = False
        self.admitted_at = 0.0

    @property
    def done(self) -> bool:
        return self._ended is None

    def mark_admitted(self, now: float) -> None:
        if not self.admitted:
            self.admitted = True
            self.admitted_at = now

    def end(self, outcome: Outcome) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(outcome)

    def abandon(self) -> None:
        """Nobody wants to know any more."""
        self._ended = None


class PendingFuture(Pending):
    """One whose outcome is awaited: `future` returns the packed reply, or raises."""

    __slots__ = ("future",)

    def __init__(self, request: NewEntry, started_at: float) -> None:
        super().__init__(request, started_at, self._resolve)
        self.future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def _resolve(self, outcome: Outcome) -> None:
        if self.future.done():  # who awaited it was cancelled
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)
