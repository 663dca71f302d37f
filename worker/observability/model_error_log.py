"""Log what a model's code raises for single requests: a few lines with tracebacks, then a count, so that a model that
fails on every request does not fill the disk."""

from __future__ import annotations

import logging

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.telemetry.log_rate_limiter import LogRateLimiter
from smartbatch.worker.core.batch import log_fields

log = logging.getLogger(__name__)


class ModelErrorLog:
    """One per process. Any thread may call `failed`."""

    def __init__(self) -> None:
        self._limit = LogRateLimiter()

    def failed(self, what: str, error: BaseException, entry: Entry, batch_id: str = "") -> None:
        if self._limit.allows(what):
            log.warning("%s", what, exc_info=error, extra=log_fields(entry, batch_id))

    def flush(self) -> None:
        """Log how many lines were left out. Called about once a second."""
        for what, count in self._limit.left_out().items():
            log.warning("%s: %d more requests", what, count, extra={"left_out": count})
