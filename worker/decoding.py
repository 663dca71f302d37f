"""Decoding: what clients sent becomes rows, in CPU threads, while the batch is still filling."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from shared.errors import InvalidInput, SmartBatchError, TooManyRows
from shared.wire import unpack_payload
from worker.batch import Rider
from worker.models.contract import Model

log = logging.getLogger(__name__)

CHUNK_S = 0.001  # entries that are decoded faster than this share one hand-over to a thread
_WEIGHT = 0.1


class Decoder:
    """The decode threads. Owned by the worker process; `decode` is called by the claimer."""

    def __init__(self, model: Model, max_rows: int, threads: int = 0) -> None:
        self._model = model
        self._max_rows = max_rows
        self._threads = threads or min(4, os.cpu_count() or 1)
        self.pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        self.mean_s = 0.0  # per entry

    def decode(self, riders: Sequence[Rider]) -> None:
        """Start decoding; each rider's `decoded` resolves when its rows (or its error) are there."""
        per_chunk = max(1, int(CHUNK_S / self.mean_s)) if self.mean_s else len(riders)
        for start in range(0, len(riders), per_chunk):
            chunk = riders[start : start + per_chunk]
            done: Future[None] = Future()
            for rider in chunk:
                rider.decoded = done
            self.pool.submit(self._decode_chunk, chunk, done)

    def decode_later(self, rider: Rider) -> None:
        """Decode one rider whose `decoded` is already being waited for."""
        self.pool.submit(self._decode_chunk, [rider], rider.decoded)

    def _decode_chunk(self, riders: Sequence[Rider], done: Future[None]) -> None:
        try:
            for rider in riders:
                started = time.monotonic()
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
        except Exception:
            log.exception("decode failed", extra={"request_id": rider.entry.id})
            rider.error = InvalidInput("the model could not decode this input")

    def close(self) -> None:
        """Wait for everything handed in, then end the threads."""
        self.pool.shutdown(wait=True)
