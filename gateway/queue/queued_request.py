"""What a model queue holds: a request from its submission to its outcome."""

from __future__ import annotations

from typing import Protocol

from smartbatch.shared.broker.queue.admission import NewEntry

Outcome = bytes | Exception  # the packed reply, or why there is none


class QueuedRequest(Protocol):
    """Implemented by InferenceRequest. Used in the event loop only. Times are monotonic."""

    entry: NewEntry
    started_at: float
    deadline_at: float
    admitted_at: float  # 0 until the broker has admitted it
    waiting: bool  # submitted, and neither ended nor abandoned

    def end(self, outcome: Outcome) -> None:
        """Pass on the outcome. The first call counts: the reply router's, the reconciler's, the deadline's or that of
        the connection."""
        ...
