"""The device thread: it runs batches and cannot reach the network.

A batch in, the same batch out with `outputs` or `error` on every rider. A row that raises is found by halving
and fails alone; a batch too large for the device's memory is halved and the ceiling remembered.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

from shared.errors import DeadlineExceeded, InvalidInput, ModelFailed, SmartBatchError
from worker.batch import Batch, Rider
from worker.forward_times import ForwardTimes
from worker.meters import Meters
from worker.models.contract import Model

log = logging.getLogger(__name__)

Seat = tuple[Rider, int]  # a rider and which of its rows

PROBE_AFTER_BATCHES = 200  # batches at the ceiling before a larger one is tried again


class Engine:
    """One device. `submit` is called by the claimer, the callbacks by the device thread."""

    def __init__(self, model: Model, max_rows: int, times: ForwardTimes, meters: Meters) -> None:
        self._model = model
        self._max_rows = max_rows
        self._times = times
        self._meters = meters
        self._batches: queue.SimpleQueue[Batch | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name="device", daemon=True)
        self.on_done: Callable[[Batch], None] = lambda batch: None
        self.ceiling = max_rows  # rows that fit the device's memory, as far as is known
        self._at_ceiling = 0
        self.working_since = 0.0  # monotonic; 0 while there is nothing to do. The watchdog looks at it.
        self.running: Batch | None = None

    def start(self) -> None:
        self._thread.start()

    def submit(self, batch: Batch) -> None:
        self._batches.put(batch)

    def call(self, function: Callable[[], None]) -> None:
        """Run a function in the device thread: load and warm-up, which must happen where forwards happen."""
        self._batches.put(function)

    def close(self) -> None:
        self._batches.put(None)
        self._thread.join(timeout=5)

    def _main(self) -> None:
        while (work := self._batches.get()) is not None:
            if not isinstance(work, Batch):
                work()
                continue
            self.running = work
            try:
                self._run(work)
            except Exception:
                log.exception("batch failed", extra={"batch_id": work.id})
                self._fail(work.riders, ModelFailed("the model failed on this batch"))
            self.running = None
            self.working_since = 0.0
            self.on_done(work)

    def _run(self, batch: Batch) -> None:
        groups: dict[Hashable, list[Seat]] = {}
        for rider in batch.riders:
            if not _decoded_in_time(rider):
                rider.error = DeadlineExceeded("the deadline passed before the request reached the device")
            if rider.alive:
                rider.outputs = [None] * len(rider.rows)
                for index, row in enumerate(rider.rows):
                    groups.setdefault(self._model.group(row), []).append((rider, index))
        batch.rows_run = sum(map(len, groups.values()))
        batch.started_at = self.working_since = time.monotonic()
        for seats in groups.values():
            for start in range(0, len(seats), self.ceiling):
                self._run_seats(seats[start : start + self.ceiling])
        batch.forward_s = time.monotonic() - batch.started_at

    def _run_seats(self, seats: list[Seat]) -> None:
        """Run rows of one group; halve on failure until the bad row stands alone."""
        seats = [seat for seat in seats if seat[0].alive]  # a rider that failed takes its other rows with it
        if not seats:
            return
        rows = [rider.rows[index] for rider, index in seats]
        try:
            outputs = self.forward(rows)
        except Exception as error:
            if len(seats) == 1:
                self._fail([seats[0][0]], _as_row_error(error))
                return
            half = len(seats) // 2
            if _is_out_of_memory(error):
                self._lower_ceiling(half)
            else:
                self._meters.bisections.inc()
                log.info("a batch of %d rows failed and is halved: %s", len(seats), type(error).__name__)
            self._run_seats(seats[:half])
            self._run_seats(seats[half:])
            return
        for (rider, index), output in zip(seats, outputs, strict=True):
            rider.outputs[index] = output
        self._probe_ceiling(len(seats))

    def forward(self, rows: list[Any], *, warm_up: bool = False) -> list[Any]:
        """Collate, run, copy back: one output per row. Also what warm-up calls."""
        started = time.monotonic()
        outputs = self._model.separate(self._model.forward(self._model.collate(rows)), len(rows))
        if len(outputs) != len(rows):
            raise RuntimeError(f"the model answered {len(outputs)} outputs for {len(rows)} rows")
        seconds = time.monotonic() - started
        self._times.record(len(rows), seconds, warm_up=warm_up)
        if not warm_up:
            self._meters.forward(seconds)
        return outputs

    def limit(self, rows: int, error: Exception) -> None:
        """Lower the ceiling because a warm-up batch didn't fit; raise any other error again."""
        if not _is_out_of_memory(error):
            raise error
        self._lower_ceiling(rows)

    def _lower_ceiling(self, rows: int) -> None:
        self.ceiling = max(1, min(self.ceiling, rows))
        self._at_ceiling = 0
        self._meters.out_of_memory.inc()
        self._meters.ceiling.set(self.ceiling)
        log.warning("the device is out of memory; batches are limited to %d rows", self.ceiling)
        self._model.free_memory()

    def _probe_ceiling(self, rows: int) -> None:
        if self.ceiling >= self._max_rows or rows < self.ceiling:
            return
        self._at_ceiling += 1
        if self._at_ceiling >= PROBE_AFTER_BATCHES:
            self._at_ceiling = 0
            self.ceiling = min(self._max_rows, self.ceiling * 2)
            self._meters.ceiling.set(self.ceiling)
            log.info("trying batches of up to %d rows again", self.ceiling)

    def _fail(self, riders: list[Rider], error: SmartBatchError) -> None:
        for rider in riders:
            if rider.alive:
                rider.error = error


def _decoded_in_time(rider: Rider) -> bool:
    """Wait for the rider's rows, and no longer than its client does."""
    if rider.cancelled:
        return True  # nobody waits for it, and it won't be run
    try:
        rider.decoded.result(timeout=max(0.0, rider.deadline_at - time.monotonic()))
    except TimeoutError:
        return False
    return not rider.alive or time.monotonic() < rider.deadline_at


def _is_out_of_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # torch's; this module works without torch


def _as_row_error(error: Exception) -> SmartBatchError:
    if isinstance(error, SmartBatchError):
        return error
    if _is_out_of_memory(error):
        return ModelFailed("the device has not enough memory for this one row")
    if isinstance(error, ValueError | TypeError):
        return InvalidInput(f"the model refused this input: {str(error)[:300]}")
    log.warning("a row failed alone", exc_info=error)
    return ModelFailed(f"the model failed on this input ({type(error).__name__})")
