"""The ledger: once a second each gateway process tells Redis what its callers spent, and learns what all have.

No request waits for it. Between two settlements a process knows only its own callers' spending, so N processes may
together let (N - 1) x (burst + one second's rate) more through than one would; the bucket in Redis then goes below
zero and is paid back, so that over longer times the rate holds exactly. A quota errs by what the other processes let
through in one second, and is not paid back.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable

import msgspec

from smartbatch.gateway.auth.principal import Principal, UsageDelta
from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection
from smartbatch.shared.broker.queue.usage import Line, Usage
from smartbatch.shared.errors import BrokerFull, BrokerUnavailable

log = logging.getLogger(__name__)

CALL_LINES = 1000  # callers in one call; that many take Redis a millisecond


class _Statement(msgspec.Struct):
    """What is told in one call. Sent again unchanged, under the same number, until Redis has answered it."""

    number: int
    day: str
    since_ms: int
    spent: list[tuple[Principal, UsageDelta]]


class UsageSync:
    """One per gateway process; `settle` is called by the guard's task only."""

    def __init__(self, url: str) -> None:
        self._connection = MultiplexedConnection(url)
        self._usage = Usage(self._connection, uuid.uuid4().hex)
        self._unanswered: _Statement | None = None
        self._number = 0
        self._settled_at = time.monotonic()
        self._broker_up = True

    async def settle(self, principals: Iterable[Principal]) -> None:
        """Tell and learn. While Redis is away each process goes by its own count, and tells it all later."""
        limited = [principal for principal in principals if principal.key.limited]
        try:
            if self._unanswered:
                await self._send(self._unanswered)
            now = time.monotonic()
            since_ms, self._settled_at = int((now - self._settled_at) * 1000), now
            day = time.strftime("%Y-%m-%d", time.gmtime())
            for start in range(0, len(limited), CALL_LINES):
                spent = [(principal, principal.take_spent()) for principal in limited[start : start + CALL_LINES]]
                self._number += 1
                self._unanswered = _Statement(self._number, day, since_ms, spent)
                await self._send(self._unanswered)
            self._broker_up = True
        except (BrokerUnavailable, BrokerFull) as error:
            if self._broker_up:
                log.warning("limits of API keys hold for each gateway process by itself until Redis is back: %s", error)
            self._broker_up = False

    async def _send(self, statement: _Statement) -> None:
        lines = [
            Line(principal.name, principal.key.rate, principal.key.burst_requests, spent.tokens, spent.counted)
            for principal, spent in statement.spent
        ]
        answers = await self._usage.settle(statement.number, statement.day, statement.since_ms, lines)
        for (principal, _), (tokens, counted) in zip(statement.spent, answers, strict=True):
            principal.settle(tokens, counted)
        self._unanswered = None

    async def close(self) -> None:
        self._connection.close()
