"""Logs one line for each request that was refused or failed. Each second, a few lines of each code are logged and
further ones are counted.

A line contains the ids of the request, its trace and its batch, and the error, but no client input: an error text that
may quote input is logged at LOG_LEVEL=debug only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from smartbatch.gateway.core.problems import code_of, status_of
from smartbatch.shared.errors import (
    ClientError,
    ClientGone,
    Forbidden,
    LimitReached,
    SmartBatchError,
    Unauthenticated,
)
from smartbatch.shared.telemetry.log_rate_limiter import LogRateLimiter

log = logging.getLogger(__name__)

Fields = dict[str, Any]

_WITHOUT_INPUT = (ClientGone, LimitReached, Unauthenticated, Forbidden)  # client errors whose text quotes no input
FLUSH_S = 1.0


class RequestLog:
    """One per process, in its event loop."""

    def __init__(self) -> None:
        self._limit = LogRateLimiter()
        self._levels: dict[str, int] = {}

    def write(self, error: Exception, fields: Callable[[], Fields]) -> bool:
        """Log a failed request. Returns False if too many errors of this code were logged already. `fields` is called
        only if the line is written."""
        code = code_of(error)
        if not self._limit.allows(code):
            return False
        level = self._levels[code] = _level(error)
        if log.isEnabledFor(level):
            extra = {**fields(), "code": code, "status": status_of(error)}
            unexpected = None if isinstance(error, SmartBatchError) else error
            log.log(level, "%s", _text(code, error), exc_info=unexpected, extra=extra)
        return True

    async def run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self.flush()

    def flush(self) -> None:
        """Log the number of omitted lines of each code, and reset the limits."""
        for code, count in self._limit.take_suppressed().items():
            extra = {"code": code, "suppressed": count}
            log.log(self._levels[code], "%s: %d more requests in this second", code, count, extra=extra)


def _level(error: Exception) -> int:
    if not isinstance(error, SmartBatchError):
        return logging.ERROR
    return logging.INFO if isinstance(error, ClientGone) else logging.WARNING


def _text(code: str, error: Exception) -> str:
    if not isinstance(error, SmartBatchError):
        return "a request failed with an unexpected error"
    quotes_input = isinstance(error, ClientError) and not isinstance(error, _WITHOUT_INPUT)
    return code if quotes_input and not log.isEnabledFor(logging.DEBUG) else f"{code}: {error}"
