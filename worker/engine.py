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

from shared.errors import DeadlineExceeded, InvalidInput, ModelFailed, SmartBatchError
from worker.batch import Batch, Rider
from worker.ceiling import Ceiling
from worker.device_errors import is_lost, is_out_of_memory, may_be_lost
from worker.forward_times import ForwardTimes
from worker.meters import Meters
from worker.models.contract import Model
from worker.row_log import RowLog
from worker.runway import Flight, Runway, Seat

log = logging.getLogger(__name__)


class DeviceLost(Exception):
    """The device is of no use to this process any more; it says nothing of any row."""


class Engine:
    """One device. `submit` is called by the claimer, the callbacks by the device's threads."""

    def __init__(
        self, model: Model, max_rows: int, times: ForwardTimes, meters: Meters, row_log: RowLog | None = None
    ) -> None:
        self._model = model
        self._times = times
        self._meters = meters
        self._row_log = row_log or RowLog()
        self._batches: queue.SimpleQueue[Batch | Callable[[], None] | None] = queue.SimpleQueue()
        self._runway = Runway()
        self._thread = threading.Thread(target=self._main, name="device", daemon=True)
        self._landing = threading.Thread(target=self._land_all, name="landing", daemon=True)
        self.on_done: Callable[[Batch], None] = lambda batch: None
        self.on_lost: Callable[[str], None] = lambda why: None  # ends the process
        self._ceiling = Ceiling(max_rows)
        self._row_too_large = False  # a row alone didn't fit, in the part that is running
        self._working_since = 0.0  # of the device thread
        self._running: Batch | None = None  # with the device to itself

    @property
    def working_since(self) -> float:
        """When the forward began that runs now, monotonic; 0 while idle. The watchdog looks at it."""
        oldest = self._runway.oldest
        return min(filter(None, (self._working_since, oldest and self._runway.begun_at(oldest))), default=0.0)

    @property
    def running(self) -> Batch | None:
        oldest = self._runway.oldest
        return oldest.batch if oldest else self._running

    @property
    def idle(self) -> bool:
        """Whether nothing is on the device, nor waits for it. For its own threads, of what comes after their batch."""
        return self._batches.empty() and self._runway.oldest is None

    @property
    def ceiling(self) -> int:
        """Rows that fit the device's memory, as far as is known."""
        return self._ceiling.rows

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
                self._runway.until_clear()
                work()
            elif work.unfollowed or not self._launch(work):  # another thread to land it would only have to be woken
                self._runway.until_clear()
                self._run_to_the_end(work)
        self._runway.until_clear()
        while not self._batches.empty():  # what landed badly meanwhile
            if callable(again := self._batches.get()):
                again()
        self._runway.close()

    def _launch(self, batch: Batch) -> bool:
        """Begin a batch while the one before may still be computed. False if it has to run by itself."""
        if not self._model.overlaps:
            return False
        try:
            self._drop_late(batch)
            groups = self._seats_by_group(batch.riders)
            if len(groups) != 1 or len(groups[0]) > self.ceiling:
                return False
            seats = groups[0]
            launched_at = self._working_since = time.monotonic()
            outputs = self._model.forward(self._model.collate([rider.rows[index] for rider, index in seats]))
        except BaseException:  # what it was is found when it runs by itself
            return False
        finally:
            self._working_since = 0.0
        self._runway.launch(Flight(batch, seats, outputs, launched_at))
        return True

    def _run_to_the_end(self, batch: Batch) -> None:
        self._running = batch
        try:
            self._run(batch)
        except DeviceLost as error:
            self.on_lost(str(error))
            self._fail(batch.riders, ModelFailed("the device failed"))
        except BaseException:  # this thread ends for nothing
            log.exception("batch failed", extra={"batch_id": batch.id})
            self._fail(batch.riders, ModelFailed("the model failed on this batch"))
        self._running = None
        self._working_since = 0.0
        self.on_done(batch)

    def _run(self, batch: Batch) -> None:
        self._drop_late(batch)
        batch.started_at = self._working_since = time.monotonic()
        groups = self._seats_by_group(batch.riders)
        batch.rows_run = sum(map(len, groups))
        for seats in groups:
            while seats:
                part, seats = seats[: self.ceiling], seats[self.ceiling :]
                self._run_part(part)
        batch.forward_s = time.monotonic() - batch.started_at

    # --- the landing thread

    def _land_all(self) -> None:
        while (flight := self._runway.next()) is not None:
            batch, seats = flight.batch, flight.seats
            try:
                outputs = self._on_host(flight.outputs, len(seats))
                batch.started_at = self._runway.begun_at(flight)
                batch.forward_s = time.monotonic() - batch.started_at
                batch.rows_run = len(seats)
                self._count(len(seats), batch.forward_s)
                self._seat(seats, outputs)
            except BaseException as error:
                log.info("a batch failed and runs again by itself: %s", type(error).__name__)
                flight.outputs = None  # they hold memory
                self.call(functools.partial(self._run_to_the_end, batch))
                self._runway.landed()
                continue
            self._runway.landed()
            self.on_done(batch)
            del flight, outputs  # until the next one lands, that may be long

    # --- both

    def _drop_late(self, batch: Batch) -> None:
        done, now = None, time.monotonic()
        for rider in reversed(batch.riders):  # what is decoded here meanwhile is what the decode threads come to last
            if rider.cancelled:
                continue  # nobody waits for it, and it won't be run
            if rider.decoded is not done:  # several have one
                done = rider.decoded if _done_by(rider.decoded, rider.deadline_at - now) else None
                now = time.monotonic()
            if done is None or (rider.alive and now >= rider.deadline_at):
                rider.error = DeadlineExceeded("the deadline passed before the request reached the device")

    def _seat(self, seats: list[Seat], outputs: Sequence[Any]) -> None:
        for (rider, index), output in zip(seats, outputs, strict=True):
            rider.outputs[index] = output
        if self._ceiling.fitted(len(seats)):
            self._meters.ceiling.set(self.ceiling)
            log.info("trying batches of up to %d rows again", self.ceiling)

    def _on_host(self, outputs: Any, rows: int) -> list[Any]:
        separated = list(self._model.separate(outputs, rows))
        if len(separated) != rows:
            raise RuntimeError(f"the model answered {len(separated)} outputs for {rows} rows")
        return separated

    def _count(self, rows: int, seconds: float) -> None:
        self._times.record(rows, seconds)
        self._meters.forward(seconds)

    def _seats_by_group(self, riders: Sequence[Rider]) -> list[list[Seat]]:
        groups: dict[Hashable, list[Seat]] = {}
        for rider in riders:
            if not rider.alive:
                continue
            rider.outputs = [None] * len(rider.rows)
            try:
                keys = [self._model.group(row) for row in rider.rows]
                hash(tuple(keys))
            except BaseException as error:  # a model may be the user's own code: anything
                rider.error = self._as_row_error(error, rider)
                continue
            for index, key in enumerate(keys):
                groups.setdefault(key, []).append((rider, index))
        return list(groups.values())

    def _run_part(self, seats: list[Seat]) -> None:
        """Run rows of one group, as many as should fit."""
        ceiling = self.ceiling
        self._row_too_large = False
        self._run_seats(seats)
        if self._row_too_large and self.ceiling < ceiling:
            self._ceiling.restore(ceiling)
            self._meters.ceiling.set(ceiling)
            log.info("it was one row's size: batches of up to %d rows again", ceiling)

    def _run_seats(self, seats: list[Seat]) -> None:
        """Halve on failure until the bad row stands alone."""
        seats = [seat for seat in seats if seat[0].alive]  # a rider that failed takes its other rows with it
        if not seats:
            return
        rows = [rider.rows[index] for rider, index in seats]
        self._working_since = time.monotonic()
        try:
            outputs = self.forward(rows)
        except BaseException as error:  # SystemExit too: a row that calls sys.exit() fails alone
            too_large = self._failed(seats, error)
        else:
            self._seat(seats, outputs)
            return
        # Only here is the error gone, and with its traceback what the failed forward still held on the device.
        if too_large:
            self._model.free_memory()
        if len(seats) > 1:
            half = len(seats) // 2
            self._run_seats(seats[:half])
            self._run_seats(seats[half:])

    def _failed(self, seats: list[Seat], error: BaseException) -> bool:
        """Draw the conclusions. True if it was for want of memory. Raises DeviceLost."""
        if too_large := is_out_of_memory(error):
            self._too_large(len(seats))
            self._row_too_large = self._row_too_large or len(seats) == 1
        elif is_lost(error) or (may_be_lost(error) and not self._model.device_works()):
            raise DeviceLost(_one_line(error)) from error
        elif len(seats) > 1:
            self._meters.bisections.inc()
            log.info("a batch of %d rows failed and is halved: %s", len(seats), type(error).__name__)
        if len(seats) == 1:
            self._fail([seats[0][0]], self._as_row_error(error, seats[0][0]))
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
        self._ceiling.did_not_fit(rows)
        self._meters.out_of_memory.inc()
        self._meters.ceiling.set(self.ceiling)
        log.warning("the device is out of memory at %d rows; batches are limited to %d rows", rows, self.ceiling)

    def _as_row_error(self, error: BaseException, rider: Rider) -> SmartBatchError:
        if isinstance(error, SmartBatchError):
            return error.with_traceback(None)  # its frames hold the batch
        if is_out_of_memory(error):
            return ModelFailed("the device has not enough memory for this one row")
        if isinstance(error, ValueError | TypeError):
            return InvalidInput(f"the model refused this input: {str(error)[:300]}")
        batch = self._running
        self._row_log.failed("a row failed alone", error, rider.entry, batch.id if batch else "")
        return ModelFailed(f"the model failed on this input ({type(error).__name__})")

    def _fail(self, riders: list[Rider], error: SmartBatchError) -> None:
        for rider in riders:
            if rider.alive:
                rider.error = error


def _done_by(decoded: Future[None], seconds: float) -> bool:
    """Wait for rows to be decoded, and no longer than a client does."""
    try:
        decoded.result(timeout=max(0.0, seconds))
    except TimeoutError:
        return False
    return True


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"
