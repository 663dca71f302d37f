"""Log exceptions of a model's code: a few with their tracebacks, then only their number, so that a model that fails on
every request does not fill the disk."""

from __future__ import annotations

import logging

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.errors import ModelFailed
from smartbatch.shared.telemetry.log_rate_limiter import LogRateLimiter
from smartbatch.worker.core.batch import log_fields
from smartbatch.worker.core.user_traceback import describe, without_callers

log = logging.getLogger(__name__)


class ModelErrorLog:
    """One per process. Any thread may call `failed`. With `show_errors` clients get the errors' texts, too."""

    def __init__(self, *, show_errors: bool = False) -> None:
        self._limit = LogRateLimiter()
        self._show_errors = show_errors

    def failed(self, message: str, error: BaseException, entry: Entry, batch_id: str = "") -> ModelFailed:
        """Log an error with its traceback from the user's code on. Returns the error that the client gets."""
        if self._limit.allows(message):
            shown = (type(error), error, without_callers(error))
            log.warning("%s", message, exc_info=shown, extra=log_fields(entry, batch_id))
        detail = describe(error) if self._show_errors else type(error).__name__
        return ModelFailed(f"{message} ({detail})")

    def flush(self) -> None:
        """Log how many lines were suppressed. Called about once a second."""
        for message, count in self._limit.take_suppressed().items():
            log.warning("%s: %d more requests", message, count, extra={"suppressed": count})
