"""Reports to Redis, once a second, what this gateway process's API keys used, and learns what all gateways used.

No request waits for it. Between two reports a process knows only its own usage, so N processes may together let
(N - 1) x (burst + one second's rate) more through than one would; the bucket in Redis then goes below zero and is paid
back, so that over longer times the rate holds exactly. A quota is off by what the other processes let through in one
second, and that is not paid back.
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

MAX_PRINCIPALS = 1000  # in one call; so many take Redis a millisecond


class _Report(msgspec.Struct):
    """The content of one call. It is sent again unchanged, under the same number, until Redis has answered it."""

    number: int
    day: str
    since_ms: int
    used: list[tuple[Principal, UsageDelta]]


class UsageSync:
    """One per gateway process; only the authenticator's task calls `settle`."""

    def __init__(self, url: str) -> None:
        self._connection = MultiplexedConnection(url)
        self._usage = Usage(self._connection, uuid.uuid4().hex)
        self._unanswered: _Report | None = None
        self._number = 0
        self._settled_at = time.monotonic()
        self._broker_up = True

    async def settle(self, principals: Iterable[Principal]) -> None:
        """Exchange usage with Redis. While Redis is away each process applies limits to its own count, which it reports
        later."""
        limited = [principal for principal in principals if principal.key.limited]
        try:
            if self._unanswered:
                await self._send(self._unanswered)
            now = time.monotonic()
            since_ms, self._settled_at = int((now - self._settled_at) * 1000), now
            day = time.strftime("%Y-%m-%d", time.gmtime())
            for start in range(0, len(limited), MAX_PRINCIPALS):
                used = [(principal, principal.take_usage()) for principal in limited[start : start + MAX_PRINCIPALS]]
                self._number += 1
                self._unanswered = _Report(self._number, day, since_ms, used)
                await self._send(self._unanswered)
            self._broker_up = True
        except (BrokerUnavailable, BrokerFull) as error:
            if self._broker_up:
                log.warning("limits of API keys hold for each gateway process by itself until Redis is back: %s", error)
            self._broker_up = False

    async def _send(self, report: _Report) -> None:
        lines = [
            Line(principal.name, principal.key.rate, principal.key.burst_requests, used.tokens, used.counted)
            for principal, used in report.used
        ]
        answers = await self._usage.settle(report.number, report.day, report.since_ms, lines)
        for (principal, _), (tokens, counted) in zip(report.used, answers, strict=True):
            principal.settle(tokens, counted)
        self._unanswered = None

    async def close(self) -> None:
        self._connection.close()
