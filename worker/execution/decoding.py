"""Decoding: what clients sent becomes rows, in CPU threads, while the batch is still filling."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from smartbatch.shared.errors import InvalidInput, SmartBatchError, TooManyRows
from smartbatch.shared.wire import unpack_payload
from smartbatch.worker.core.batch import ClaimedEntry
from smartbatch.worker.core.model import Model
from smartbatch.worker.observability.model_error_log import ModelErrorLog

log = logging.getLogger(__name__)

CHUNK_S = 0.001  # entries that are decoded faster than this share one hand-over to a thread
# What is decoded faster than this waits for the device's thread, which is woken for the batch anyway: a hand-over to
# another takes about as long.
QUICK_S = 0.0002
_WEIGHT = 0.1


class Chunk(Future[None]):
    """Riders that are decoded together, once: by a decode thread, or by who needs them before one has begun."""

    def __init__(
        self, claimed_entries: Sequence[ClaimedEntry], decode: Callable[[Sequence[ClaimedEntry]], None]
    ) -> None:
        super().__init__()
        self.claimed_entries = claimed_entries
        self._decode = decode
        self._taken = threading.Lock()

    @property
    def left(self) -> bool:
        """Whether somebody is still to begin with it."""
        return not self._taken.locked() and not all(claimed.cancelled for claimed in self.claimed_entries)

    def begin(self) -> None:
        if self._taken.acquire(blocking=False):
            try:
                self._decode(self.claimed_entries)
            finally:
                self.claimed_entries = ()  # they hold this
                self.set_result(None)

    def result(self, timeout: float | None = None) -> None:
        """Decode here and now if nobody has begun; else wait. Raises TimeoutError."""
        self.begin()
        return super().result(timeout)


class Decoder:
    """The decode threads; replies are made in them too. Owned by the worker process, called from the event loop
    and by the device thread. The watchdog looks at `working_since`."""

    def __init__(self, model: Model, max_rows: int, threads: int = 0, error_log: ModelErrorLog | None = None) -> None:
        self._model = model
        self._max_rows = max_rows
        self._error_log = error_log or ModelErrorLog()
        self.threads = threads or min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        self._since: dict[int, float] = {}  # thread → when it began what it is doing, monotonic
        self.mean_s = 0.0  # per entry
        self._left: list[Chunk] = []  # to the device's thread; the event loop's view

    def decode(self, claimed_entries: Sequence[ClaimedEntry]) -> None:
        """Start decoding; each rider's `decoded` resolves when its rows (or its error) are there."""
        quick = self._quick(len(claimed_entries))
        for together in self._cut(claimed_entries):
            chunk = Chunk(together, self._decode_watched)
            for claimed in together:
                claimed.decoded = chunk
            if quick:
                self._left.append(chunk)
            else:
                self._pool.submit(chunk.begin)

    def decode_later(self, claimed_entries: Sequence[ClaimedEntry]) -> None:
        """Decode riders whose `decoded`, of each its own, are already being waited for."""
        for together in self._cut(claimed_entries):
            self.submit(self._decode_and_say, together)

    def _cut(self, claimed_entries: Sequence[ClaimedEntry]) -> list[Sequence[ClaimedEntry]]:
        """Into what shares one hand-over."""
        size = max(1, int(CHUNK_S / self.mean_s)) if self.mean_s else max(1, len(claimed_entries))
        return [claimed_entries[start : start + size] for start in range(0, len(claimed_entries), size)]

    def _quick(self, entries: int) -> bool:
        """Whether the device's thread may do it beside what is left to it already."""
        self._left = [chunk for chunk in self._left if chunk.left]
        entries += sum(len(chunk.claimed_entries) for chunk in self._left)
        return 0.0 < self.mean_s * entries < QUICK_S

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

    def _decode_watched(self, claimed_entries: Sequence[ClaimedEntry]) -> None:
        self._work(self._decode, claimed_entries)

    def _decode_and_say(self, claimed_entries: Sequence[ClaimedEntry]) -> None:
        for claimed in claimed_entries:
            try:
                self._decode([claimed])
            finally:
                claimed.decoded.set_result(None)

    def _decode(self, claimed_entries: Sequence[ClaimedEntry]) -> None:
        for claimed in claimed_entries:
            started = self._since[threading.get_ident()] = time.monotonic()
            self._decode_one(claimed)
            claimed.decoded_at = time.monotonic()
            claimed.decode_s = claimed.decoded_at - started
            self.mean_s += _WEIGHT * (claimed.decode_s - self.mean_s)

    def _decode_one(self, claimed: ClaimedEntry) -> None:
        try:
            payload = unpack_payload(claimed.entry.payload)
            rows = self._model.decode(payload)
            if len(rows) > self._max_rows:
                raise TooManyRows(f"{len(rows)} rows came; this model takes {self._max_rows} (MAX_BATCH_SIZE)")
            if not rows:
                raise InvalidInput("expected at least one row, got none")
            claimed.rows, claimed.options = rows, payload.options
        except SmartBatchError as error:
            claimed.error = error
        except BaseException as error:  # a model may be the user's own code: SystemExit too
            self._error_log.failed("decode failed", error, claimed.entry)
            claimed.error = InvalidInput("the model could not decode this input")

    def close(self) -> None:
        """Wait for everything handed in, then end the threads."""
        self._pool.shutdown(wait=True)
