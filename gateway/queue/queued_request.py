"""The interface of a request in a model queue, from its submission to its outcome."""

from __future__ import annotations

from typing import Any, Protocol

from smartbatch.shared.broker.queue.admission import NewEntry

Outcome = bytes | Exception  # the packed reply, or the error that ended the request


class QueuedRequest(Protocol):
    """Implemented by InferenceRequest. Used in the event loop only. Times are monotonic."""

    entry: NewEntry
    started_at: float
    deadline_at: float
    admitted_at: float  # 0 until the broker has admitted it
    partition: Any  # to which it was sent (partition.Partition); None while it waits to be sent
    waiting: bool  # submitted, and neither ended nor abandoned

    def move_to(self, queue: Any) -> bool:
        """Let another version's queue (model_queue.ModelQueue) answer the request. Returns False if its client has
        chosen the version, or if that version takes other inputs."""
        ...

    def end(self, outcome: Outcome) -> None:
        """End the request. Only the first call has an effect: of the reply router, the reconciler, the deadline or the
        connection."""
        ...
