"""Classify errors of a forward: out of memory, a lost device, or a row on which the model fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from smartbatch.shared.errors import ModelFailed, SmartBatchError
from smartbatch.worker.core.batch import Batch, ClaimedEntry, RowRef, padded_size
from smartbatch.worker.core.device_errors import is_lost, is_out_of_memory, may_be_lost
from smartbatch.worker.core.model import Model
from smartbatch.worker.execution.memory_limit import MemoryBatchLimit
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.observability.model_error_log import ModelErrorLog

log = logging.getLogger(__name__)


class DeviceLost(Exception):
    """This process can't use the device any more. No row is at fault."""


class FailureClassifier:
    """Owned by the engine and called by its device thread. Any thread may call `row_error`."""

    def __init__(
        self, model: Model, memory_limit: MemoryBatchLimit, metrics: WorkerMetrics, error_log: ModelErrorLog
    ) -> None:
        self._model = model
        self._memory_limit = memory_limit
        self._metrics = metrics
        self._error_log = error_log
        self.row_too_large = False  # a single row did not fit the memory; the engine resets it

    def classify(self, row_refs: Sequence[RowRef], error: BaseException, batch: Batch | None) -> bool:
        """Fail the entry if there was a single row. Returns whether memory was the cause. Raises DeviceLost."""
        single = len(row_refs) == 1
        too_large = is_out_of_memory(error)
        if too_large:
            self.out_of_memory(padded_size(row_refs))
            self.row_too_large = self.row_too_large or single
        elif is_lost(error) or (may_be_lost(error) and not self._model.device_works()):
            raise DeviceLost(_one_line(error)) from error
        elif not single:
            self._metrics.bisections.inc()
            log.info("a batch of %d rows failed and is halved: %s", len(row_refs), type(error).__name__)
        if single:
            claimed, index = row_refs[0]
            claimed.fail_row(index, self.row_error(error, claimed, batch))
        return too_large

    @property
    def unit(self) -> str:
        """What the memory limit counts."""
        return "tokens" if self._model.sized else "rows"

    def out_of_memory(self, padded: int) -> None:
        """Lower the memory limit: so many rows, or rows times size, did not fit."""
        self._memory_limit.did_not_fit(padded)
        self._metrics.out_of_memory.inc()
        self._metrics.memory_limit.set(self._memory_limit.rows)
        limit, unit = self._memory_limit.rows, self.unit
        log.warning("out of device memory at %d %s; batches are limited to %d %s", padded, unit, limit, unit)

    def restore_limit(self, rows: int) -> None:
        """Undo a change that a single row caused: the limit is on the number of rows, not on their size."""
        if self._memory_limit.rows < rows:
            self._memory_limit.restore(rows)
            log.info("a single row was too large: the limit of %s is what it was", self.unit)

    def row_error(self, error: BaseException, claimed: ClaimedEntry, batch: Batch | None) -> SmartBatchError:
        """Return the error for the client; log it if the model is at fault."""
        if isinstance(error, SmartBatchError):
            return error.with_traceback(None)  # its frames hold the batch
        if is_out_of_memory(error):
            return ModelFailed("the device has not enough memory for this one row")
        return self._error_log.failed("the model failed on this input", error, claimed.entry, batch.id if batch else "")


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"
