"""Decode threads: they turn payloads into rows while the batch is still filling, and outputs into replies."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import index as index_of
from typing import Any

from smartbatch.shared.errors import InvalidInput, ModelFailed, SmartBatchError, TooManyRows
from smartbatch.shared.wire import Payload, unpack_payload
from smartbatch.worker.core.batch import ClaimedEntry
from smartbatch.worker.core.model import Model
from smartbatch.worker.core.user_traceback import describe
from smartbatch.worker.observability.model_error_log import ModelErrorLog

log = logging.getLogger(__name__)

CHUNK_S = 0.001  # approximate time to decode the entries that are handed to a thread at once
# Entries that take less than this in all are left to the device thread, which is woken for the batch anyway: handing
# them to another thread takes about as long.
QUICK_S = 0.0002
MAX_SIZE = 2**31
_WEIGHT = 0.1  # of the newest measurement in a running mean


class Chunk(Future[None]):
    """Entries that are decoded together, once: by a decode thread, or by the first thread that needs the result."""

    def __init__(
        self, claimed_entries: Sequence[ClaimedEntry], decode: Callable[[Sequence[ClaimedEntry]], None]
    ) -> None:
        super().__init__()
        self.claimed_entries = claimed_entries
        self._decode = decode
        self._begun = threading.Lock()

    @property
    def pending(self) -> bool:
        """Whether no thread has begun to decode it, and one still has to."""
        return not self._begun.locked() and not all(claimed.cancelled for claimed in self.claimed_entries)

    def begin(self) -> None:
        """Decode in this thread, unless another thread has begun."""
        if self._begun.acquire(blocking=False):
            try:
                self._decode(self.claimed_entries)
            finally:
                self.claimed_entries = ()  # breaks the cycle: entries refer to this chunk
                self.set_result(None)

    def result(self, timeout: float | None = None) -> None:
        """Decode in this thread, or wait for the thread that has begun. Raises TimeoutError."""
        self.begin()
        return super().result(timeout)


class Decoder:
    """The pool of decode threads. Owned by the worker; called in the event loop and by the device's threads. The
    watchdog reads `working_since`."""

    def __init__(self, model: Model, max_rows: int, threads: int = 0, error_log: ModelErrorLog | None = None) -> None:
        self._model = model
        self._max_rows = max_rows
        self._error_log = error_log or ModelErrorLog()
        self.threads = threads or min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        self._since: dict[int, float] = {}  # by thread: start of its present work, monotonic
        self.mean_s = 0.0  # running mean per entry
        self._sizes_work = True
        self._deferred: list[Chunk] = []  # left to the device thread; used only in the event loop

    def decode(self, claimed_entries: Sequence[ClaimedEntry]) -> None:
        """Start decoding. Each entry's `decoded` resolves once its rows or its error are set."""
        quick = self._is_quick(len(claimed_entries))
        for together in self._split(claimed_entries):
            chunk = Chunk(together, self._decode_watched)
            for claimed in together:
                claimed.decoded = chunk
            if quick:
                self._deferred.append(chunk)
            else:
                self._pool.submit(chunk.begin)

    def decode_fetched(self, claimed_entries: Sequence[ClaimedEntry]) -> None:
        """Decode entries whose `decoded` is a plain future of their own, which threads may already wait for."""
        for together in self._split(claimed_entries):
            self.submit(self._decode_and_resolve, together)

    def _split(self, claimed_entries: Sequence[ClaimedEntry]) -> list[Sequence[ClaimedEntry]]:
        """Split into chunks that take about CHUNK_S to decode."""
        size = max(1, int(CHUNK_S / self.mean_s)) if self.mean_s else max(1, len(claimed_entries))
        return [claimed_entries[start : start + size] for start in range(0, len(claimed_entries), size)]

    def _is_quick(self, entries: int) -> bool:
        """Return whether the device thread can decode this many more entries, besides the deferred ones."""
        self._deferred = [chunk for chunk in self._deferred if chunk.pending]
        entries += sum(len(chunk.claimed_entries) for chunk in self._deferred)
        return not self._model.sized and 0.0 < self.mean_s * entries < QUICK_S  # sizes are needed before the batch

    def submit(self, function: Callable[..., None], *args: Any) -> None:
        """Run a function in a decode thread."""
        self._pool.submit(self.run_watched, function, *args)

    def run_watched(self, function: Callable[..., None], *args: Any) -> None:
        """Run a function in this thread, observed by the watchdog like a decode thread."""
        thread = threading.get_ident()
        self._since[thread] = time.monotonic()
        try:
            function(*args)
        except BaseException:  # the pool would swallow it
            log.exception("a decode thread failed")
        finally:
            self._since.pop(thread, None)

    @property
    def working_since(self) -> float:
        """Start of the longest running work of any decode thread, monotonic; 0 while all are idle."""
        return min(self._since.copy().values(), default=0.0)

    def _decode_watched(self, claimed_entries: Sequence[ClaimedEntry]) -> None:
        self.run_watched(self._decode, claimed_entries)

    def _decode_and_resolve(self, claimed_entries: Sequence[ClaimedEntry]) -> None:
        for claimed in claimed_entries:
            try:
                self._decode([claimed])
            finally:
                claimed.decoded.set_result(None)

    def _decode(self, claimed_entries: Sequence[ClaimedEntry]) -> None:
        for claimed in claimed_entries:
            started = self._since[threading.get_ident()] = time.monotonic()
            self._decode_one(claimed)
            if self._model.sized and claimed.alive:
                claimed.sizes = [self._size(row, claimed, index) for index, row in enumerate(claimed.rows)]
            claimed.decoded_at = time.monotonic()
            claimed.decode_s = claimed.decoded_at - started
            self.mean_s += _WEIGHT * (claimed.decode_s - self.mean_s)

    def _decode_one(self, claimed: ClaimedEntry) -> None:
        try:
            payload = unpack_payload(claimed.entry.payload)
        except SmartBatchError as error:
            claimed.error = error
            return
        claimed.options, claimed.partial, claimed.first_row = payload.options, payload.partial, payload.first_row
        try:
            claimed.rows = self._model.decode(payload)
            self._check_rows(claimed)
        except BaseException as error:  # a user's model may raise anything, SystemExit too
            error = self._error_of(error, claimed)
            if not isinstance(error, InvalidInput | ModelFailed):
                claimed.error = error  # the request's, not a row's
            elif payload.rows == 1:
                claimed.rows = [None]
                claimed.fail_row(0, error)
            else:
                self._decode_each_row(claimed, payload, error)

    def _size(self, row: Any, claimed: ClaimedEntry, index: int) -> tuple[int, Hashable]:
        """Return a row's size and group. If the model's `size` is wrong, all rows have the size 1 from now on."""
        if not claimed.runs(index):
            return 1, None
        size = 1
        if self._sizes_work:
            try:
                size = index_of(self._model.size(row))  # an integer of numpy is one too
                if not 1 <= size <= MAX_SIZE:
                    raise ValueError(f"size() returned {size!r:.60}, expected 1 to {MAX_SIZE}")
            except BaseException as error:  # a user's model may raise anything
                self._sizes_work, size = False, 1
                log.error("the model's size() is wrong, so batches are cut by rows from now on: %s", describe(error))
        try:
            group = self._model.group(row)
            hash(group)  # an unhashable one would fail in the event loop
            return size, group
        except BaseException as error:
            claimed.fail_row(index, self._error_of(error, claimed))
            return size, None

    def _check_rows(self, claimed: ClaimedEntry) -> None:
        if len(claimed.rows) > self._max_rows:
            raise TooManyRows(f"expected at most {self._max_rows} rows (MAX_BATCH_SIZE), got {len(claimed.rows)}")
        if not claimed.rows:
            raise InvalidInput("expected at least one row, got none")

    def _decode_each_row(self, claimed: ClaimedEntry, payload: Payload, error: SmartBatchError) -> None:
        """Find the rows that can't be decoded, after the payload as a whole couldn't: that was `error`."""
        claimed.rows = [None] * payload.rows
        for index, part in enumerate(payload.split(1)):
            try:
                decoded = self._model.decode(part)
            except BaseException as row_error:
                claimed.fail_row(index, self._error_of(row_error, claimed))
                if not claimed.partial:
                    return
                continue
            if len(decoded) != 1:  # the payload's rows aren't the model's
                break
            claimed.rows[index] = decoded[0]
        else:
            if claimed.row_errors:
                return
        claimed.row_errors, claimed.error = {}, error

    def _error_of(self, error: BaseException, claimed: ClaimedEntry) -> SmartBatchError:
        if isinstance(error, SmartBatchError):
            return error
        return self._error_log.failed("the model failed to decode this input", error, claimed.entry)

    def close(self) -> None:
        """Wait for all submitted work, then end the threads."""
        self._pool.shutdown(wait=True)
