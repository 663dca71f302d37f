"""Splits a request with more rows than a batch may have into parts, each an entry, and joins the replies to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from smartbatch.gateway.queue.queued_request import Outcome
from smartbatch.shared.broker.queue.admission import NewEntry
from smartbatch.shared.errors import WireError
from smartbatch.shared.wire import Payload, Reply, Result, Tensor, unpack_reply


class SplitRequest(Protocol):
    """The request of the parts. Implemented by InferenceRequest."""

    started_at: float
    deadline_at: float

    def end(self, outcome: Outcome) -> None: ...
    def move_to(self, queue: Any) -> bool: ...
    def part_answered(self, part: Part) -> None: ...


class Part:
    """One part, as a QueuedRequest in the model queue. The first error of a part ends the request."""

    admitted_at = 0.0
    queue: Any = None  # once submitted
    partition: Any = None
    waiting = True
    answered = False
    reply: Reply  # once answered

    def __init__(self, request: SplitRequest, entry: NewEntry) -> None:
        self._request = request
        self.entry = entry
        self.started_at = request.started_at
        self.deadline_at = request.deadline_at

    def move_to(self, queue: Any) -> bool:
        if not self._request.move_to(queue):
            return False
        self.queue = queue
        return True

    def end(self, outcome: Outcome) -> None:
        if not self.waiting:
            return
        self.waiting = False
        try:
            if isinstance(outcome, Exception):
                raise outcome
            self.reply = unpack_reply(outcome)
        except Exception as error:
            self._request.end(error)
        else:
            self._request.part_answered(self)


def split(payload: Payload, rows: int) -> list[Payload]:
    """Return payloads of up to `rows` rows each. Errors number rows by their position in the whole request."""
    parts = payload.split(rows)
    for number, part in enumerate(parts):
        part.options = {**part.options, "first_row": number * rows}
    return parts


def join(replies: Sequence[Reply]) -> Reply:
    """Return the reply to the whole request: all rows, with timing and batch of the slowest part."""
    results = [reply.result for reply in replies if reply.result is not None]
    slowest = max(replies, key=lambda reply: sum(reply.ms.values()))
    joined = Result(errors={row: error for result in results for row, error in result.errors.items()})
    joined.tokens = sum(result.tokens for result in results)
    filled = [result for result in results if result.values != []]  # empty: all rows of the part failed
    first = filled[0] if filled else Result(values=[])
    if first.classes is not None:
        joined.classes = [row for result in filled for row in result.classes or ()]
    elif first.outputs is not None:
        joined.outputs = {name: _concatenate([(r.outputs or {})[name] for r in filled]) for name in first.outputs}
    else:
        joined.values = [row for result in filled for row in result.values or ()]
    return Reply(joined, None, slowest.batch, slowest.ms)


def _concatenate(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    if any((tensor.dtype, tensor.shape[1:]) != (first.dtype, first.shape[1:]) for tensor in tensors):
        shapes = ", ".join(f"{tensor.dtype}{list(tensor.shape)}" for tensor in tensors)
        raise WireError(f"the parts of the request have outputs that can't be joined: {shapes:.300}")
    rows = sum(tensor.shape[0] for tensor in tensors)
    return Tensor(first.dtype, (rows, *first.shape[1:]), b"".join(tensor.data for tensor in tensors))
