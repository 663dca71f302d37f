"""Encode the outputs of a batch into replies: in a decode thread while the device computes the next batch, or in the
device's own thread if no batch waits."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from smartbatch.shared.broker.queue.claims import Outcome
from smartbatch.shared.errors import ClientError, DeadlineExceeded, SmartBatchError, from_wire
from smartbatch.shared.wire import BatchInfo, ErrorInfo, Reply, Result, pack_reply
from smartbatch.worker.core.batch import Batch, ClaimedEntry
from smartbatch.worker.core.model import Model
from smartbatch.worker.execution.decoding import Decoder
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.observability.model_error_log import ModelErrorLog
from smartbatch.worker.observability.tracing import Tracing

QUICK_S = 0.0003  # about the cost of handing a batch to another thread, which then wakes the event loop
_WEIGHT = 0.1  # of the newest measurement in a running mean


class EncodedBatch(NamedTuple):
    """The outcomes of a batch's entries, and their number by outcome (ENTRIES.values)."""

    outcomes: list[Outcome]
    counts: Counter[str]


class EncodingStage:
    """Takes batches from the engine, encodes their replies and hands them to the event loop.

    The event loop gets `on_encoded(batch, outcomes)` first; `on_freed(batch, at)` and the metrics follow two iterations
    later: the first iteration wakes the publisher, and by the end of the second the replies have been sent.
    """

    def __init__(
        self, engine: Engine, decoder: Decoder, encoder: ReplyEncoder, metrics: WorkerMetrics, tracing: Tracing | None
    ) -> None:
        self._engine = engine
        self._decoder = decoder
        self._encoder = encoder
        self._metrics = metrics
        self._tracing = tracing
        self._loop = asyncio.get_running_loop()
        self.on_encoded: Callable[[Batch, list[Outcome]], None] = lambda batch, outcomes: None
        self.on_freed: Callable[[Batch, float], None] = lambda batch, at: None
        engine.on_done = self.batch_done

    def batch_done(self, batch: Batch) -> None:
        """Encode, then report the device free; in this order, since a drain closes the decoder once the device is free.
        Called by the device's threads."""
        if self._engine.idle and self._encoder.is_quick(batch):
            self._decoder.run_watched(self._encode, batch, True)
        else:
            self._decoder.submit(self._encode, batch)
        self._loop.call_soon_threadsafe(self._after_iterations, 2, self.on_freed, batch, time.monotonic())

    def _encode(self, batch: Batch, in_device_thread: bool = False) -> None:
        started_at = time.monotonic()
        encoded = self._encoder.encode(batch)
        self._loop.call_soon_threadsafe(self._encoded, batch, encoded)
        if self._tracing is None:
            return
        span = (batch, self._engine.device_name, started_at, time.monotonic())
        if in_device_thread:  # the next batch may need this thread
            self._decoder.submit(self._tracing.batch, *span)
        else:
            self._tracing.batch(*span)

    def _encoded(self, batch: Batch, encoded: EncodedBatch) -> None:
        self.on_encoded(batch, encoded.outcomes)
        self._after_iterations(2, self._metrics.batch, batch, encoded.counts)

    def _after_iterations(self, iterations: int, function: Callable[..., None], *args: Any) -> None:
        """Call a function after this many iterations of the event loop."""
        if iterations:
            self._loop.call_soon(self._after_iterations, iterations - 1, function, *args)
        else:
            function(*args)


class ReplyEncoder:
    """Turns outputs into replies. `encode` is called once per batch, in one of several threads."""

    def __init__(self, model: Model, worker_id: str, error_log: ModelErrorLog) -> None:
        self._model = model
        self._worker_id = worker_id
        self._error_log = error_log
        self._mean_s = QUICK_S  # running mean per entry; a race between threads does no harm

    def is_quick(self, batch: Batch) -> bool:
        """Return whether encoding should take less than handing the batch to another thread."""
        return self._mean_s * len(batch.ended_entries) < QUICK_S

    def encode(self, batch: Batch) -> EncodedBatch:
        """Make an outcome for each entry, except cancelled ones, which this worker no longer holds."""
        started = time.monotonic()
        encoded = self._encode(batch)
        mean_s = (time.monotonic() - started) / max(1, len(batch.ended_entries))
        self._mean_s += _WEIGHT * (mean_s - self._mean_s)
        return encoded

    def _encode(self, batch: Batch) -> EncodedBatch:
        id_, rows, requests, closed = batch.id, batch.rows, len(batch.claimed_entries), batch.closed
        outcomes: list[Outcome] = []
        counts: Counter[str] = Counter()
        results = 0
        for claimed in batch.ended_entries:
            if claimed.cancelled:
                counts["cancelled"] += 1
            elif claimed.lost:
                counts["lost"] += 1
                outcomes.append(Outcome(claimed.entry))
            elif isinstance(claimed.error, DeadlineExceeded):
                # No reply: the gateway reports 504 by its own clock. If Redis's clock stepped instead, the gateway's
                # reconciler finds the entry missing and admits it again.
                counts["expired"] += 1
                outcomes.append(Outcome(claimed.entry))
            else:
                position = 0
                if claimed.error is None:
                    position = results = results + 1
                info = BatchInfo(id_, rows, requests, closed, self._worker_id, claimed.entry.deliveries, position)
                packed, error = self._reply(claimed, info, _durations_ms(claimed, batch))
                counts["ok" if error is None else "invalid" if isinstance(error, ClientError) else "error"] += 1
                outcomes.append(Outcome(claimed.entry, packed))
        return EncodedBatch(outcomes, counts)

    def _reply(
        self, claimed: ClaimedEntry, info: BatchInfo, ms: dict[str, float]
    ) -> tuple[bytes, SmartBatchError | None]:
        """Return the packed reply, and the error in it."""
        error = claimed.error
        if error is None:
            try:
                return pack_reply(Reply(self._result(claimed, info), None, info, ms)), None
            except BaseException as raised:  # a user's model may raise anything, SystemExit too
                error = self._error_of(raised, claimed, info)
        try:
            return pack_reply(Reply(None, error, info, ms)), error
        except (UnicodeEncodeError, TypeError):  # the text may quote what a client sent, such as a lone surrogate
            readable = str(error).encode(errors="backslashreplace").decode()
            return pack_reply(Reply(None, from_wire(error.code, readable), info, ms)), error

    def _result(self, claimed: ClaimedEntry, info: BatchInfo) -> Result:
        """Encode the rows; if that fails, find the row that fails."""
        try:
            return self._encode_rows(claimed)
        except BaseException:
            if len(claimed.rows) == 1:
                raise
            for index, output in enumerate(claimed.outputs):
                if claimed.runs(index):
                    try:
                        self._model.encode([output], claimed.options)
                    except BaseException as error:
                        claimed.fail_row(index, self._error_of(error, claimed, info))
            if claimed.error is not None:
                raise claimed.error from None
            return self._encode_rows(claimed)

    def _encode_rows(self, claimed: ClaimedEntry) -> Result:
        if not claimed.row_errors:
            return self._model.encode(claimed.outputs, claimed.options)
        good = [output for index, output in enumerate(claimed.outputs) if claimed.runs(index)]
        result = self._model.encode(good, claimed.options) if good else Result(values=[])
        first, errors = claimed.first_row or 0, sorted(claimed.row_errors.items())
        result.errors = {first + index: ErrorInfo(error.code, error.detail) for index, error in errors}
        return result

    def _error_of(self, error: BaseException, claimed: ClaimedEntry, info: BatchInfo) -> SmartBatchError:
        if isinstance(error, SmartBatchError):
            return error
        return self._error_log.failed("the model's output could not be encoded", error, claimed.entry, info.id)


def _durations_ms(claimed: ClaimedEntry, batch: Batch) -> dict[str, float]:
    """Return the worker's parts of the latency; the gateway adds admission and reply."""
    return {
        "queue": (claimed.claimed_at - claimed.admitted_at) * 1000,
        "decode": claimed.decode_s * 1000,
        "batch_wait": max(0.0, batch.started_at - claimed.claimed_at - claimed.decode_s) * 1000,
        "forward": batch.forward_s * 1000,
    }
