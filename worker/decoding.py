"""Decoding: what clients sent becomes rows, in CPU threads, while the batch is still filling."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from shared.errors import InvalidInput, SmartBatchError, TooManyRows
from shared.wire import unpack_payload
from worker.batch import Rider
from worker.models.contract import Model
from worker.row_log import RowLog

log = logging.getLogger(__name__)

CHUNK_S = 0.001  # entries that are decoded faster than this share one hand-over to a thread
_WEIGHT = 0.1


class Decoder:
    """The decode threads; replies are made in them too. Owned by the worker process, called from the event loop
    and by the device thread. The watchdog looks at `working_since`."""

    def __init__(self, model: Model, max_rows: int, threads: int = 0, row_log: RowLog | None = None) -> None:
        self._model = model
        self._max_rows = max_rows
        self._row_log = row_log or RowLog()
        self.threads = threads or min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        self._since: dict[int, float] = {}  # thread → when it began what it is doing, monotonic
        self.mean_s = 0.0  # per entry

    def decode(self, riders: Sequence[Rider]) -> None:
        """Start decoding; each rider's `decoded` resolves when its rows (or its error) are there."""
        per_chunk = max(1, int(CHUNK_S / self.mean_s)) if self.mean_s else len(riders)
        for start in range(0, len(riders), per_chunk):
            chunk = riders[start : start + per_chunk]
            done: Future[None] = Future()
            for rider in chunk:
                rider.decoded = done
            self.submit(self._decode_chunk, chunk, done)

    def decode_later(self, rider: Rider) -> None:
        """Decode one rider whose `decoded` is already being waited for."""
        self.submit(self._decode_chunk, [rider], rider.decoded)

    def submit(self, function: Callable[..., None], *args: Any) -> None:
        """Run a function in a decode thread."""
        self._pool.submit(self._work, function, *args)

    def work_here(self, function: Callable[..., None], *args: Any) -> None:
        """Run it in the caller's thread, watched as a decode thread is."""
        self._work(function, *args)

    @property
    def working_since(self) -> float:
        """When the thread that has made no progress for longest began; 0 while all are idle."""
        return min(self._since.copy().values(), default=0.0)

    def _work(self, function: Callable[..., None], *args: Any) -> None:
        thread = threading.get_ident()
        self._since[thread] = time.monotonic()
        try:
            function(*args)
        except BaseException:  # the pool would keep it to itself
            log.exception("a decode thread failed")
        finally:
            self._since.pop(thread, None)

    def _decode_chunk(self, riders: Sequence[Rider], done: Future[None]) -> None:
        try:
            for rider in riders:
                started = self._since[threading.get_ident()] = time.monotonic()
                self._decode_one(rider)
                rider.decoded_at = time.monotonic()
                rider.decode_s = rider.decoded_at - started
                self.mean_s += _WEIGHT * (rider.decode_s - self.mean_s)
        finally:
            done.set_result(None)

    def _decode_one(self, rider: Rider) -> None:
        try:
            payload = unpack_payload(rider.entry.payload)
            rows = self._model.decode(payload)
            if len(rows) > self._max_rows:
                raise TooManyRows(f"{len(rows)} rows came; this model takes {self._max_rows} (MAX_BATCH_SIZE)")
            if not rows:
                raise InvalidInput("expected at least one row, got none")
            rider.rows, rider.options = rows, payload.options
        except SmartBatchError as error:
            rider.error = error
        except BaseException as error:  # a model may be the user's own code: SystemExit too
            self._row_log.failed("decode failed", error, rider.entry)
            rider.error = InvalidInput("the model could not decode this input")

    def close(self) -> None:
        """Wait for everything handed in, then end the threads."""
        self._pool.shutdown(wait=True)
