"""What a batch produced becomes replies: in a decode thread, while the next batch is on the device, or at once in the
device's own, if it has nothing else to do."""

from __future__ import annotations

import time
from collections import Counter
from typing import NamedTuple

from shared.broker.claims import Outcome
from shared.errors import ClientError, DeadlineExceeded, ModelFailed, SmartBatchError, from_wire
from shared.wire import Reply, Ride, pack_reply
from worker.batch import Batch, Rider
from worker.models.contract import Model
from worker.row_log import RowLog

QUICK_S = 0.0003  # about what a hand-over to another thread takes, and its coming back to the event loop
_WEIGHT = 0.1


class Made(NamedTuple):
    """What becomes of a batch's entries, and how many of them ended how (one of ENTRIES')."""

    outcomes: list[Outcome]
    counts: Counter[str]


class ReplyMaker:
    """`make` is called once per batch, in one of several threads. It counts nothing itself: a client waits."""

    def __init__(self, model: Model, worker_id: str, row_log: RowLog) -> None:
        self._model = model
        self._worker_id = worker_id
        self._row_log = row_log
        self._mean_s = QUICK_S  # per rider; the threads' race for it does no harm

    def quick(self, batch: Batch) -> bool:
        """Whether making its replies should take next to no time."""
        return self._mean_s * len(batch.riders) < QUICK_S

    def make(self, batch: Batch) -> Made:
        """Make an outcome for every rider that still is this worker's (a cancelled one isn't)."""
        started = time.monotonic()
        made = self._make(batch)
        self._mean_s += _WEIGHT * ((time.monotonic() - started) / len(batch.riders) - self._mean_s)
        return made

    def _make(self, batch: Batch) -> Made:
        id_, rows, requests, closed = batch.id, batch.rows, len(batch.riders), batch.closed
        outcomes: list[Outcome] = []
        counts: Counter[str] = Counter()
        position = 0
        for rider in batch.riders:
            if rider.cancelled:
                counts["cancelled"] += 1
            elif rider.lost:
                counts["lost"] += 1
                outcomes.append(Outcome(rider.entry))
            elif isinstance(rider.error, DeadlineExceeded):
                # Given up without a reply: its gateway's own clock has said 504 or is about to. If it was Redis's
                # clock that stepped, the gateway's sweep misses the entry and admits it again.
                counts["expired"] += 1
                outcomes.append(Outcome(rider.entry))
            else:
                place = 0
                if rider.error is None:
                    place = position = position + 1
                ride = Ride(id_, rows, requests, closed, self._worker_id, rider.entry.deliveries, place)
                packed, error = self._reply(rider, ride, _times(rider, batch))
                counts["ok" if error is None else "invalid" if isinstance(error, ClientError) else "error"] += 1
                outcomes.append(Outcome(rider.entry, packed))
        return Made(outcomes, counts)

    def _reply(self, rider: Rider, ride: Ride, ms: dict[str, float]) -> tuple[bytes, SmartBatchError | None]:
        """Return the reply, and the error that it holds."""
        error = rider.error
        if error is None:
            try:
                result = self._model.encode(rider.outputs, rider.options)
                return pack_reply(Reply(result, None, ride, ms)), None
            except SmartBatchError as raised:
                error = raised
            except BaseException as raised:  # a model may be the user's own code: SystemExit too
                self._row_log.failed("encode failed", raised, rider.entry, ride.id)
                error = ModelFailed("the model's answer could not be encoded")
        try:
            return pack_reply(Reply(None, error, ride, ms)), error
        except (UnicodeEncodeError, TypeError):  # a model's text may quote what a client sent, and be no text at all
            readable = str(error).encode(errors="backslashreplace").decode()
            return pack_reply(Reply(None, from_wire(error.code, readable), ride, ms)), error


def _times(rider: Rider, batch: Batch) -> dict[str, float]:
    """Where the time went on this side, in ms; the gateway adds admit and reply."""
    return {
        "queue": (rider.claimed_at - rider.admitted_at) * 1000,
        "decode": rider.decode_s * 1000,
        "batch_wait": max(0.0, batch.started_at - rider.decoded_at) * 1000,
        "forward": batch.forward_s * 1000,
    }
