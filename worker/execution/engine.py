"""The engine runs batches on the device, in two threads: one launches them, the other completes them. Neither reaches
the network.

It sets `outputs` or `error` on every entry of a batch. While the device computes one batch, the next one is launched,
if the model allows it (`Model.overlaps`). A batch that failed runs again exclusively: it is halved until only the
failing row fails. A batch too large for the device's memory is halved too, and the size remembered. If an error leaves
the device unusable, the process ends and other workers run its entries.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from smartbatch.shared.errors import DeadlineExceeded, ModelFailed
from smartbatch.worker.core.batch import Batch, ClaimedEntry, RowRef, padded_size
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.core.device_errors import is_out_of_memory
from smartbatch.worker.core.model import Model
from smartbatch.worker.execution.device_share import DeviceShare
from smartbatch.worker.execution.failures import DeviceLost, FailureClassifier
from smartbatch.worker.execution.memory_limit import MemoryBatchLimit
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.observability.model_error_log import ModelErrorLog

log = logging.getLogger(__name__)

UNLIMITED = 2**62


class LaunchedBatch:
    """A batch whose forward has been launched and whose outputs may not be there yet."""

    __slots__ = ("batch", "launched_at", "outputs", "row_refs")

    def __init__(self, batch: Batch, row_refs: list[RowRef], outputs: Any, launched_at: float) -> None:
        self.batch = batch
        self.row_refs = row_refs
        self.outputs = outputs
        self.launched_at = launched_at  # monotonic


class LaunchedBatches:
    """Launched batches in the order of their launch, which is the order in which the device computes them.

    The device thread calls `launch` and `wait_empty`, the completion thread `next` and `completed`.
    """

    def __init__(self) -> None:
        self._batches: deque[LaunchedBatch] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._completed_at = 0.0

    def launch(self, launched: LaunchedBatch) -> None:
        with self._changed:
            self._batches.append(launched)
            self._changed.notify_all()

    def wait_empty(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._batches)

    def next(self) -> LaunchedBatch | None:
        """Wait for the oldest batch; None once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._closed)
            return self._batches[0] if self._batches else None

    def completed(self) -> None:
        """Remove the oldest batch."""
        with self._changed:
            self._batches.popleft()
            self._completed_at = time.monotonic()
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def started_at(self, launched: LaunchedBatch) -> float:
        """Return when the device could start it: it was launched and the one before was completed."""
        return max(launched.launched_at, self._completed_at)

    @property
    def oldest(self) -> LaunchedBatch | None:
        """The batch that the device is computing. Any thread may read it."""
        with self._changed:
            return self._batches[0] if self._batches else None


class Engine:
    """One device. The batcher calls `submit`; the device's threads call `on_done` and `on_lost`."""

    def __init__(
        self,
        model: Model,
        max_rows: int,
        costs: CostModel,
        metrics: WorkerMetrics,
        error_log: ModelErrorLog | None = None,
    ) -> None:
        self._model = model
        self._costs = costs
        self._metrics = metrics
        self._max_rows = max_rows
        self._memory_limit = MemoryBatchLimit(UNLIMITED, full=0.75) if model.sized else MemoryBatchLimit(max_rows)
        self._failures = FailureClassifier(model, self._memory_limit, metrics, error_log or ModelErrorLog())
        self._work: queue.SimpleQueue[Batch | Callable[[], None] | None] = queue.SimpleQueue()
        self._launched = LaunchedBatches()
        self._device_thread = threading.Thread(target=self._run_all, name="device", daemon=True)
        self._completion_thread = threading.Thread(target=self._complete_all, name="completion", daemon=True)
        self.on_done: Callable[[Batch], None] = lambda batch: None
        self.on_lost: Callable[[str], None] = lambda why: None  # ends the process
        self._working_since = 0.0  # of the device thread
        self._running: Batch | None = None  # the batch that runs exclusively
        self.share: DeviceShare | None = None  # with other workers; set once the model is loaded

    @property
    def working_since(self) -> float:
        """Start of the forward that runs now, monotonic; 0 while idle. The watchdog reads it."""
        oldest = self._launched.oldest
        return min(filter(None, (self._working_since, oldest and self._launched.started_at(oldest))), default=0.0)

    @property
    def running(self) -> Batch | None:
        oldest = self._launched.oldest
        return oldest.batch if oldest else self._running

    @property
    def idle(self) -> bool:
        """Whether no batch runs or waits, apart from the one being reported. Called by the device's threads."""
        return self._work.empty() and self._launched.oldest is None

    @property
    def device_name(self) -> str:
        return self._model.device_name

    @property
    def device_available(self) -> float:
        """Share of the device's time that this worker gets if it wants all."""
        return self.share.available if self.share else 1.0

    @property
    def memory_limit(self) -> int:
        """Rows that fit the device's memory, as learned so far; for a sized model rows times the largest size."""
        return self._memory_limit.rows

    @property
    def known_memory_limit(self) -> int:
        """`memory_limit`, or the limit of rows while a sized model has always fitted."""
        return self._max_rows if self.memory_limit == UNLIMITED else self.memory_limit

    def start(self) -> None:
        self._device_thread.start()
        self._completion_thread.start()

    def submit(self, batch: Batch) -> None:
        self._work.put(batch)

    def call(self, function: Callable[[], None]) -> None:
        """Run a function in the device thread, after all batches submitted so far."""
        self._work.put(function)

    def between_batches(self, function: Callable[[], None]) -> None:
        """As `call`, while serving: the watchdog observes the function like a batch."""

        def watched() -> None:
            with self.turn():
                self._working_since = time.monotonic()
                try:
                    function()
                finally:
                    self._working_since = 0.0

        self.call(watched)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Use the device for something else than a batch of requests, in the device thread."""
        if self.share is not None:
            self.share.begin()
        try:
            yield
        finally:
            self._end_turn()

    def close(self) -> None:
        self._work.put(None)
        self._device_thread.join(timeout=5)
        self._completion_thread.join(timeout=5)

    # --- device thread

    def _run_all(self) -> None:
        while (work := self._work.get()) is not None:
            if not isinstance(work, Batch):
                self._launched.wait_empty()
                work()
            elif work.run_inline or not self._launch(work):
                self._launched.wait_empty()
                self._run_exclusively(work)
        self._launched.wait_empty()
        while not self._work.empty():  # batches that failed meanwhile, to run again
            if callable(again := self._work.get()):
                again()
        self._launched.close()

    def _launch(self, batch: Batch) -> bool:
        """Launch a batch behind the one that the device computes. Returns False if it must run exclusively."""
        if not self._model.overlaps:
            return False
        try:
            self._begin_turn(batch)
        except BaseException:  # the exclusive run finds the cause
            return False
        launched = self._launch_rows(batch)
        if not launched:
            self._end_turn()
        return launched

    def _launch_rows(self, batch: Batch) -> bool:
        try:
            groups = self._group_rows(batch)
            if len(groups) != 1 or self._fitting(groups[0]) < len(groups[0]):
                return False
            row_refs = groups[0]
            launched_at = self._working_since = time.monotonic()
            outputs = self._model.forward(self._model.collate([claimed.rows[index] for claimed, index in row_refs]))
        except BaseException:  # the exclusive run finds the cause
            return False
        finally:
            self._working_since = 0.0
        self._launched.launch(LaunchedBatch(batch, row_refs, outputs, launched_at))
        return True

    def _begin_turn(self, batch: Batch) -> None:
        """Wait until the batch is decoded, and until it is this worker's turn on a device that several share."""
        self._drop_late(batch)
        if self.share is None or not (waited_s := self.share.begin()):
            return
        batch.device_wait_s += waited_s
        self._metrics.device_wait.observe(waited_s)
        try:
            self._drop_late(batch)
        except BaseException:
            self._end_turn()
            raise

    def _end_turn(self) -> None:
        """The outputs of a batch that began a turn are there, or won't come."""
        if self.share is not None:
            self.share.end()

    def _run_exclusively(self, batch: Batch) -> None:
        self._running = batch
        try:
            self._run(batch)
        except DeviceLost as error:
            self.on_lost(str(error))
            _fail(batch, "the device failed")
        except BaseException:  # nothing may end this thread
            log.exception("batch failed", extra={"batch_id": batch.id})
            _fail(batch, "the model failed on this batch")
        self._running = None
        self._working_since = 0.0
        batch.end_entries()
        self.on_done(batch)

    def _run(self, batch: Batch) -> None:
        self._begin_turn(batch)
        try:
            self._run_in_turn(batch)
        finally:
            self._end_turn()

    def _run_in_turn(self, batch: Batch) -> None:
        batch.started_at = self._working_since = time.monotonic()
        groups = self._group_rows(batch)
        batch.rows_run = sum(map(len, groups))
        for row_refs in groups:
            while row_refs:
                fitting = self._fitting(row_refs)
                part, row_refs = row_refs[:fitting], row_refs[fitting:]
                limit, self._failures.row_too_large = self.memory_limit, False
                self._run_rows(part)
                if self._failures.row_too_large:
                    self._failures.restore_limit(limit)
                    self._metrics.memory_limit.set(self.known_memory_limit)
        batch.forward_s = time.monotonic() - batch.started_at

    def _run_rows(self, row_refs: list[RowRef]) -> None:
        """Run rows of one group; on failure halve them until the failing row is alone. Raises DeviceLost."""
        row_refs = [(claimed, index) for claimed, index in row_refs if claimed.runs(index)]
        if not row_refs:
            return
        rows = [claimed.rows[index] for claimed, index in row_refs]
        self._working_since = time.monotonic()
        try:
            outputs = self.forward(rows, size=self._largest(row_refs))
        except BaseException as error:  # SystemExit too: only the row that calls sys.exit() fails
            too_large = self._failures.classify(row_refs, error, self._running)
        else:
            self._store_outputs(self._running, row_refs, outputs)
            return
        # Only here is the error released, and with its traceback the device memory that the failed forward held.
        if too_large:
            self._model.free_memory()
        if len(row_refs) > 1:
            half = len(row_refs) // 2
            self._run_rows(row_refs[:half])
            self._run_rows(row_refs[half:])

    def forward(self, rows: list[Any], *, size: int = 1, warm_up: bool = False) -> list[Any]:
        """Collate, run and copy back: one output per row. `size` is that of the largest. Warm-up calls it too."""
        started = time.monotonic()
        outputs = self._separate(self._model.forward(self._model.collate(rows)), len(rows))
        seconds = time.monotonic() - started
        self._costs.record(len(rows), seconds, size=size, warm_up=warm_up)
        if not warm_up:
            self._metrics.forward(seconds)
        return outputs

    def warm_up_failed(self, padded: int, error: Exception) -> bool:
        """Lower the memory limit if the device ran out of memory at so many rows, or rows times size. Returns False on
        any other error."""
        if not is_out_of_memory(error):
            return False
        self._failures.out_of_memory(padded)
        return True

    # --- completion thread

    def _complete_all(self) -> None:
        while (launched := self._launched.next()) is not None:
            batch, row_refs = launched.batch, launched.row_refs
            try:
                outputs = self._separate(launched.outputs, len(row_refs))
                batch.started_at = self._launched.started_at(launched)
                batch.forward_s = time.monotonic() - batch.started_at
                batch.rows_run = rows = len(row_refs)
                self._costs.record(rows, batch.forward_s, size=self._largest(row_refs))
                self._metrics.forward(batch.forward_s)
                self._store_outputs(batch, row_refs, outputs)
            except BaseException as error:
                log.info("a batch failed and runs again exclusively: %s", type(error).__name__)
                launched.outputs = None  # frees device memory
                self._end_turn()
                self.call(functools.partial(self._run_exclusively, batch))
                self._launched.completed()
                continue
            self._end_turn()
            batch.end_entries()  # before the device thread can run, and end, another part of these entries
            self._launched.completed()
            self.on_done(batch)
            del launched, outputs  # frees memory: the next batch may come much later

    # --- both threads

    def _fitting(self, row_refs: Sequence[RowRef]) -> int:
        """Return how many of the first rows fit the device's memory, at least one."""
        if not self._model.sized:
            return self.memory_limit
        rows = largest = 0
        for claimed, index in row_refs:
            largest = max(largest, claimed.size(index))
            if (rows + 1) * largest > self.memory_limit:
                break
            rows += 1
        return max(1, rows)

    def _drop_late(self, batch: Batch) -> None:
        """Wait until every entry is decoded, or its deadline has passed: then it gets DeadlineExceeded."""
        done, now = None, time.monotonic()
        # Reversed: this thread then decodes the entries that the decode threads would reach last.
        for claimed in reversed(batch.claimed_entries):
            if claimed.cancelled:
                continue
            if claimed.decoded is not done:  # entries that were decoded together share a future
                done = claimed.decoded if _decoded_within(claimed.decoded, claimed.deadline_at - now) else None
                now = time.monotonic()
            if done is None or (claimed.alive and now >= claimed.deadline_at):
                claimed.error = DeadlineExceeded("the deadline passed before the request reached the device")

    def _group_rows(self, batch: Batch) -> list[list[RowRef]]:
        """Return the rows of a batch that can be collated with each other, by group."""
        groups: dict[Hashable, list[RowRef]] = {}
        for claimed in batch.claimed_entries:
            if claimed.alive and not claimed.outputs:
                claimed.outputs = [None] * len(claimed.rows)
        for claimed, index in batch.row_refs if batch.row_refs is not None else _all_rows(batch.claimed_entries):
            if not claimed.runs(index):
                continue
            try:
                group = groups.setdefault(self._model.group(claimed.rows[index]), [])
            except BaseException as error:  # a user's model may raise anything
                claimed.fail_row(index, self._failures.row_error(error, claimed, self._running))
            else:
                group.append((claimed, index))
        return list(groups.values())

    def _separate(self, outputs: Any, rows: int) -> list[Any]:
        separated = list(self._model.separate(outputs, rows))
        if len(separated) != rows:
            raise RuntimeError(f"the model returned {len(separated)} outputs for {rows} rows")
        return separated

    def _largest(self, row_refs: Sequence[RowRef]) -> int:
        """Return the size to which these rows are padded."""
        return padded_size(row_refs) // len(row_refs) if self._model.sized else 1

    def _store_outputs(self, batch: Batch | None, row_refs: list[RowRef], outputs: Sequence[Any]) -> None:
        """Store the outputs of rows that ran together in their entries, and their sizes in the batch."""
        for (claimed, index), output in zip(row_refs, outputs, strict=True):
            claimed.outputs[index] = output
        if self._model.sized and batch is not None:
            batch.real_size += sum(claimed.size(index) for claimed, index in row_refs)
            batch.padded_size += padded_size(row_refs)
        if self._memory_limit.exceeded and self._memory_limit.fitted(padded_size(row_refs)):
            self._metrics.memory_limit.set(self.known_memory_limit)
            log.info("probing batches of up to %d %s again", self.memory_limit, self._failures.unit)


def _all_rows(claimed_entries: Sequence[ClaimedEntry]) -> Iterator[RowRef]:
    return ((claimed, index) for claimed in claimed_entries if claimed.alive for index in range(len(claimed.rows)))


def _decoded_within(decoded: Future[None], seconds: float) -> bool:
    try:
        decoded.result(timeout=max(0.0, seconds))
    except TimeoutError:
        return False
    return True


def _fail(batch: Batch, detail: str) -> None:
    for claimed in batch.claimed_entries:
        if claimed.alive:
            claimed.error = ModelFailed(detail)
