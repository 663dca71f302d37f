"""The device's two threads: one launches batches, the other lands them. Neither can reach the network.

A batch in, the same batch out with `outputs` or `error` on every rider. While the device computes one batch, the next
is launched, if the model can do that (`Model.overlaps`) and nothing is unusual about it. Otherwise, and after any
failure, a batch runs with the device to itself. A row that raises is found by halving
and fails alone; a batch too large for the device's memory is halved and the ceiling remembered. After an error that
leaves the device useless nothing is halved or failed: the process ends, and others run what it held.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any

from smartbatch.shared.errors import DeadlineExceeded, InvalidInput, ModelFailed, SmartBatchError
from smartbatch.worker.core.batch import Batch, ClaimedEntry
from smartbatch.worker.core.device_errors import is_lost, is_out_of_memory, may_be_lost
from smartbatch.worker.core.model import Model
from smartbatch.worker.execution.latency import LatencyEstimator
from smartbatch.worker.execution.launched_batches import LaunchedBatch, LaunchedBatches, RowRef
from smartbatch.worker.execution.memory_limit import MemoryBatchLimit
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.observability.model_error_log import ModelErrorLog

log = logging.getLogger(__name__)


class DeviceLost(Exception):
    """The device is of no use to this process any more; it says nothing of any row."""


class Engine:
    """One device. `submit` is called by the claimer, the callbacks by the device's threads."""

    def __init__(
        self,
        model: Model,
        max_rows: int,
        times: LatencyEstimator,
        metrics: WorkerMetrics,
        error_log: ModelErrorLog | None = None,
    ) -> None:
        self._model = model
        self._times = times
        self._metrics = metrics
        self._error_log = error_log or ModelErrorLog()
        self._batches: queue.SimpleQueue[Batch | Callable[[], None] | None] = queue.SimpleQueue()
        self._launched_batches = LaunchedBatches()
        self._thread = threading.Thread(target=self._main, name="device", daemon=True)
        self._landing = threading.Thread(target=self._complete_all, name="landing", daemon=True)
        self.on_done: Callable[[Batch], None] = lambda batch: None
        self.on_lost: Callable[[str], None] = lambda why: None  # ends the process
        self._memory_limit = MemoryBatchLimit(max_rows)
        self._row_too_large = False  # a row alone didn't fit, in the part that is running
        self._working_since = 0.0  # of the device thread
        self._running: Batch | None = None  # with the device to itself

    @property
    def working_since(self) -> float:
        """When the forward began that runs now, monotonic; 0 while idle. The watchdog looks at it."""
        oldest = self._launched_batches.oldest
        return min(filter(None, (self._working_since, oldest and self._launched_batches.begun_at(oldest))), default=0.0)

    @property
    def running(self) -> Batch | None:
        oldest = self._launched_batches.oldest
        return oldest.batch if oldest else self._running

    @property
    def idle(self) -> bool:
        """Whether nothing is on the device, nor waits for it. For its own threads, of what comes after their batch."""
        return self._batches.empty() and self._launched_batches.oldest is None

    @property
    def memory_limit(self) -> int:
        """Rows that fit the device's memory, as far as is known."""
        return self._memory_limit.rows

    def start(self) -> None:
        self._thread.start()
        self._landing.start()

    def submit(self, batch: Batch) -> None:
        self._batches.put(batch)

    def call(self, function: Callable[[], None]) -> None:
        """Run a function in the device thread: load and warm-up, which must happen where forwards happen."""
        self._batches.put(function)

    def between_batches(self, function: Callable[[], None]) -> None:
        """Run a function in the device thread that may use the device; the watchdog looks at it as at a batch."""

        def watched() -> None:
            self._working_since = time.monotonic()
            try:
                function()
            finally:
                self._working_since = 0.0

        self.call(watched)

    def close(self) -> None:
        self._batches.put(None)
        self._thread.join(timeout=5)
        self._landing.join(timeout=5)

    # --- the device thread

    def _main(self) -> None:
        while (work := self._batches.get()) is not None:
            if not isinstance(work, Batch):
                self._launched_batches.until_clear()
                work()
            elif work.run_inline or not self._launch(work):  # another thread to land it would only have to be woken
                self._launched_batches.until_clear()
                self._run_to_the_end(work)
        self._launched_batches.until_clear()
        while not self._batches.empty():  # what landed badly meanwhile
            if callable(again := self._batches.get()):
                again()
        self._launched_batches.close()

    def _launch(self, batch: Batch) -> bool:
        """Begin a batch while the one before may still be computed. False if it has to run by itself."""
        if not self._model.overlaps:
            return False
        try:
            self._drop_late(batch)
            groups = self._rows_by_group(batch.claimed_entries)
            if len(groups) != 1 or len(groups[0]) > self.memory_limit:
                return False
            row_refs = groups[0]
            launched_at = self._working_since = time.monotonic()
            outputs = self._model.forward(self._model.collate([claimed.rows[index] for claimed, index in row_refs]))
        except BaseException:  # what it was is found when it runs by itself
            return False
        finally:
            self._working_since = 0.0
        self._launched_batches.launch(LaunchedBatch(batch, row_refs, outputs, launched_at))
        return True

    def _run_to_the_end(self, batch: Batch) -> None:
        self._running = batch
        try:
            self._run(batch)
        except DeviceLost as error:
            self.on_lost(str(error))
            self._fail(batch.claimed_entries, ModelFailed("the device failed"))
        except BaseException:  # this thread ends for nothing
            log.exception("batch failed", extra={"batch_id": batch.id})
            self._fail(batch.claimed_entries, ModelFailed("the model failed on this batch"))
        self._running = None
        self._working_since = 0.0
        self.on_done(batch)

    def _run(self, batch: Batch) -> None:
        self._drop_late(batch)
        batch.started_at = self._working_since = time.monotonic()
        groups = self._rows_by_group(batch.claimed_entries)
        batch.rows_run = sum(map(len, groups))
        for row_refs in groups:
            while row_refs:
                part, row_refs = row_refs[: self.memory_limit], row_refs[self.memory_limit :]
                self._run_part(part)
        batch.forward_s = time.monotonic() - batch.started_at

    # --- the landing thread

    def _complete_all(self) -> None:
        while (launched := self._launched_batches.next()) is not None:
            batch, row_refs = launched.batch, launched.row_refs
            try:
                outputs = self._on_host(launched.outputs, len(row_refs))
                batch.started_at = self._launched_batches.begun_at(launched)
                batch.forward_s = time.monotonic() - batch.started_at
                batch.rows_run = len(row_refs)
                self._count(len(row_refs), batch.forward_s)
                self._row_refs(row_refs, outputs)
            except BaseException as error:
                log.info("a batch failed and runs again by itself: %s", type(error).__name__)
                launched.outputs = None  # they hold memory
                self.call(functools.partial(self._run_to_the_end, batch))
                self._launched_batches.completed()
                continue
            self._launched_batches.completed()
            self.on_done(batch)
            del launched, outputs  # until the next one lands, that may be long

    # --- both

    def _drop_late(self, batch: Batch) -> None:
        done, now = None, time.monotonic()
        for claimed in reversed(
            batch.claimed_entries
        ):  # what is decoded here meanwhile is what the decode threads come to last
            if claimed.cancelled:
                continue  # nobody waits for it, and it won't be run
            if claimed.decoded is not done:  # several have one
                done = claimed.decoded if _done_by(claimed.decoded, claimed.deadline_at - now) else None
                now = time.monotonic()
            if done is None or (claimed.alive and now >= claimed.deadline_at):
                claimed.error = DeadlineExceeded("the deadline passed before the request reached the device")

    def _row_refs(self, row_refs: list[RowRef], outputs: Sequence[Any]) -> None:
        for (claimed, index), output in zip(row_refs, outputs, strict=True):
            claimed.outputs[index] = output
        if self._memory_limit.fitted(len(row_refs)):
            self._metrics.memory_limit.set(self.memory_limit)
            log.info("trying batches of up to %d rows again", self.memory_limit)

    def _on_host(self, outputs: Any, rows: int) -> list[Any]:
        separated = list(self._model.separate(outputs, rows))
        if len(separated) != rows:
            raise RuntimeError(f"the model answered {len(separated)} outputs for {rows} rows")
        return separated

    def _count(self, rows: int, seconds: float) -> None:
        self._times.record(rows, seconds)
        self._metrics.forward(seconds)

    def _rows_by_group(self, claimed_entries: Sequence[ClaimedEntry]) -> list[list[RowRef]]:
        groups: dict[Hashable, list[RowRef]] = {}
        for claimed in claimed_entries:
            if not claimed.alive:
                continue
            claimed.outputs = [None] * len(claimed.rows)
            try:
                keys = [self._model.group(row) for row in claimed.rows]
                hash(tuple(keys))
            except BaseException as error:  # a model may be the user's own code: anything
                claimed.error = self._as_row_error(error, claimed)
                continue
            for index, key in enumerate(keys):
                groups.setdefault(key, []).append((claimed, index))
        return list(groups.values())

    def _run_part(self, row_refs: list[RowRef]) -> None:
        """Run rows of one group, as many as should fit."""
        memory_limit = self.memory_limit
        self._row_too_large = False
        self._run_row_refs(row_refs)
        if self._row_too_large and self.memory_limit < memory_limit:
            self._memory_limit.restore(memory_limit)
            self._metrics.memory_limit.set(memory_limit)
            log.info("it was one row's size: batches of up to %d rows again", memory_limit)

    def _run_row_refs(self, row_refs: list[RowRef]) -> None:
        """Halve on failure until the bad row stands alone."""
        row_refs = [
            row_ref for row_ref in row_refs if row_ref[0].alive
        ]  # a rider that failed takes its other rows with it
        if not row_refs:
            return
        rows = [claimed.rows[index] for claimed, index in row_refs]
        self._working_since = time.monotonic()
        try:
            outputs = self.forward(rows)
        except BaseException as error:  # SystemExit too: a row that calls sys.exit() fails alone
            too_large = self._failed(row_refs, error)
        else:
            self._row_refs(row_refs, outputs)
            return
        # Only here is the error gone, and with its traceback what the failed forward still held on the device.
        if too_large:
            self._model.free_memory()
        if len(row_refs) > 1:
            half = len(row_refs) // 2
            self._run_row_refs(row_refs[:half])
            self._run_row_refs(row_refs[half:])

    def _failed(self, row_refs: list[RowRef], error: BaseException) -> bool:
        """Draw the conclusions. True if it was for want of memory. Raises DeviceLost."""
        if too_large := is_out_of_memory(error):
            self._too_large(len(row_refs))
            self._row_too_large = self._row_too_large or len(row_refs) == 1
        elif is_lost(error) or (may_be_lost(error) and not self._model.device_works()):
            raise DeviceLost(_one_line(error)) from error
        elif len(row_refs) > 1:
            self._metrics.bisections.inc()
            log.info("a batch of %d rows failed and is halved: %s", len(row_refs), type(error).__name__)
        if len(row_refs) == 1:
            self._fail([row_refs[0][0]], self._as_row_error(error, row_refs[0][0]))
        return too_large

    def forward(self, rows: list[Any], *, warm_up: bool = False) -> list[Any]:
        """Collate, run, copy back: one output per row. Also what warm-up calls."""
        started = time.monotonic()
        outputs = self._on_host(self._model.forward(self._model.collate(rows)), len(rows))
        seconds = time.monotonic() - started
        if warm_up:
            self._times.record(len(rows), seconds, warm_up=True)
        else:
            self._count(len(rows), seconds)
        return outputs

    def warm_up_failed(self, rows: int, error: Exception) -> bool:
        """Lower the ceiling if it was for want of memory. False if it was anything else."""
        if not is_out_of_memory(error):
            return False
        self._too_large(rows)
        return True

    def _too_large(self, rows: int) -> None:
        self._memory_limit.did_not_fit(rows)
        self._metrics.out_of_memory.inc()
        self._metrics.memory_limit.set(self.memory_limit)
        log.warning("the device is out of memory at %d rows; batches are limited to %d rows", rows, self.memory_limit)

    def _as_row_error(self, error: BaseException, claimed: ClaimedEntry) -> SmartBatchError:
        if isinstance(error, SmartBatchError):
            return error.with_traceback(None)  # its frames hold the batch
        if is_out_of_memory(error):
            return ModelFailed("the device has not enough memory for this one row")
        if isinstance(error, ValueError | TypeError):
            return InvalidInput(f"the model refused this input: {str(error)[:300]}")
        batch = self._running
        self._error_log.failed("a row failed alone", error, claimed.entry, batch.id if batch else "")
        return ModelFailed(f"the model failed on this input ({type(error).__name__})")

    def _fail(self, claimed_entries: list[ClaimedEntry], error: SmartBatchError) -> None:
        for claimed in claimed_entries:
            if claimed.alive:
                claimed.error = error


def _done_by(decoded: Future[None], seconds: float) -> bool:
    """Wait for rows to be decoded, and no longer than a client does."""
    try:
        decoded.result(timeout=max(0.0, seconds))
    except TimeoutError:
        return False
    return True


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"
