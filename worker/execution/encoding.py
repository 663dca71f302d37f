"""What a batch produced becomes replies: in a decode thread, while the next batch is on the device, or at once in the
device's own, if it has nothing else to do."""

from __future__ import annotations

import time
from collections import Counter
from typing import NamedTuple

from smartbatch.shared.broker.queue.claims import Outcome
from smartbatch.shared.errors import ClientError, DeadlineExceeded, ModelFailed, SmartBatchError, from_wire
from smartbatch.shared.wire import BatchInfo, Reply, pack_reply
from smartbatch.worker.core.batch import Batch, ClaimedEntry
from smartbatch.worker.core.model import Model
from smartbatch.worker.observability.model_error_log import ModelErrorLog

QUICK_S = 0.0003  # about what a hand-over to another thread takes, and its coming back to the event loop
_WEIGHT = 0.1


class Made(NamedTuple):
    """What becomes of a batch's entries, and how many of them ended how (one of ENTRIES')."""

    outcomes: list[Outcome]
    counts: Counter[str]


class ReplyEncoder:
    """`make` is called once per batch, in one of several threads. It counts nothing itself: a client waits."""

    def __init__(self, model: Model, worker_id: str, error_log: ModelErrorLog) -> None:
        self._model = model
        self._worker_id = worker_id
        self._error_log = error_log
        self._mean_s = QUICK_S  # per rider; the threads' race for it does no harm

    def quick(self, batch: Batch) -> bool:
        """Whether making its replies should take next to no time."""
        return self._mean_s * len(batch.claimed_entries) < QUICK_S

    def make(self, batch: Batch) -> Made:
        """Make an outcome for every rider that still is this worker's (a cancelled one isn't)."""
        started = time.monotonic()
        made = self._make(batch)
        self._mean_s += _WEIGHT * ((time.monotonic() - started) / len(batch.claimed_entries) - self._mean_s)
        return made

    def _make(self, batch: Batch) -> Made:
        id_, rows, requests, closed = batch.id, batch.rows, len(batch.claimed_entries), batch.closed
        outcomes: list[Outcome] = []
        counts: Counter[str] = Counter()
        position = 0
        for claimed in batch.claimed_entries:
            if claimed.cancelled:
                counts["cancelled"] += 1
            elif claimed.lost:
                counts["lost"] += 1
                outcomes.append(Outcome(claimed.entry))
            elif isinstance(claimed.error, DeadlineExceeded):
                # Given up without a reply: its gateway's own clock has said 504 or is about to. If it was Redis's
                # clock that stepped, the gateway's sweep misses the entry and admits it again.
                counts["expired"] += 1
                outcomes.append(Outcome(claimed.entry))
            else:
                place = 0
                if claimed.error is None:
                    place = position = position + 1
                ride = BatchInfo(id_, rows, requests, closed, self._worker_id, claimed.entry.deliveries, place)
                packed, error = self._reply(claimed, ride, _times(claimed, batch))
                counts["ok" if error is None else "invalid" if isinstance(error, ClientError) else "error"] += 1
                outcomes.append(Outcome(claimed.entry, packed))
        return Made(outcomes, counts)

    def _reply(
        self, claimed: ClaimedEntry, ride: BatchInfo, ms: dict[str, float]
    ) -> tuple[bytes, SmartBatchError | None]:
        """Return the reply, and the error that it holds."""
        error = claimed.error
        if error is None:
            try:
                result = self._model.encode(claimed.outputs, claimed.options)
                return pack_reply(Reply(result, None, ride, ms)), None
            except SmartBatchError as raised:
                error = raised
            except BaseException as raised:  # a model may be the user's own code: SystemExit too
                self._error_log.failed("encode failed", raised, claimed.entry, ride.id)
                error = ModelFailed("the model's answer could not be encoded")
        try:
            return pack_reply(Reply(None, error, ride, ms)), error
        except (UnicodeEncodeError, TypeError):  # a model's text may quote what a client sent, and be no text at all
            readable = str(error).encode(errors="backslashreplace").decode()
            return pack_reply(Reply(None, from_wire(error.code, readable), ride, ms)), error


def _times(claimed: ClaimedEntry, batch: Batch) -> dict[str, float]:
    """Where the time went on this side, in ms; the gateway adds admit and reply."""
    return {
        "queue": (claimed.claimed_at - claimed.admitted_at) * 1000,
        "decode": claimed.decode_s * 1000,
        "batch_wait": max(0.0, batch.started_at - claimed.decoded_at) * 1000,
        "forward": batch.forward_s * 1000,
    }
