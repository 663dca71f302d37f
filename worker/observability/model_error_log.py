"""Log exceptions of a model's code: a few with their tracebacks, then only their number, so that a model that fails on
every request does not fill the disk."""

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

    def failed(self, message: str, error: BaseException, entry: Entry, batch_id: str = "") -> None:
        if self._limit.allows(message):
            log.warning("%s", message, exc_info=error, extra=log_fields(entry, batch_id))

    def flush(self) -> None:
        """Log how many lines were suppressed. Called about once a second."""
        for message, count in self._limit.take_suppressed().items():
            log.warning("%s: %d more requests", message, count, extra={"suppressed": count})
