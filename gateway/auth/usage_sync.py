"""Exchanges the usage of API keys with Redis once a second: reports this process's, reads that of all gateways.

No request waits for it. Between two exchanges a process knows only its own usage, so N processes together may admit
(N - 1) x (burst + one second's rate) more requests than one would. The bucket in Redis then goes below zero and is paid
back, so the rate is exact over longer times. A quota may be exceeded by what the other processes admit in one second,
which is not paid back.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable

import msgspec

from smartbatch.gateway.auth.principal import Principal, UsageDelta
from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection
from smartbatch.shared.broker.queue.usage import KeyUsage, Usage
from smartbatch.shared.errors import BrokerFull, BrokerUnavailable
from smartbatch.shared.keys import BUCKETS

log = logging.getLogger(__name__)

MAX_PRINCIPALS = 1000  # per call; the script takes about a millisecond for so many


class _Report(msgspec.Struct):
    """The content of one call, which is repeated unchanged, under the same number, until Redis answers."""

    number: int
    day: str
    since_ms: int
    used: list[tuple[Principal, UsageDelta]]


class UsageSync:
    """One per gateway process; only the authenticator's task calls `sync`."""

    def __init__(self, url: str) -> None:
        self._connection = MultiplexedConnection(url, BUCKETS)
        self._usage = Usage(self._connection, uuid.uuid4().hex)
        self._unanswered: _Report | None = None
        self._number = 0
        self._synced_at = time.monotonic()
        self._broker_up = True

    async def sync(self, principals: Iterable[Principal]) -> None:
        """Exchange usage with Redis. While Redis is unavailable, each process applies the limits to its own usage and
        reports it later."""
        limited = [principal for principal in principals if principal.key.limited]
        try:
            if self._unanswered:
                await self._send(self._unanswered)
            now = time.monotonic()
            since_ms, self._synced_at = int((now - self._synced_at) * 1000), now
            day = time.strftime("%Y-%m-%d", time.gmtime())
            for start in range(0, len(limited), MAX_PRINCIPALS):
                used = [(principal, principal.take_usage()) for principal in limited[start : start + MAX_PRINCIPALS]]
                self._number += 1
                self._unanswered = _Report(self._number, day, since_ms, used)
                await self._send(self._unanswered)
            self._broker_up = True
        except (BrokerUnavailable, BrokerFull) as error:
            if self._broker_up:
                log.warning("API key limits apply to each gateway process separately until Redis is back: %s", error)
            self._broker_up = False

    async def _send(self, report: _Report) -> None:
        lines = [
            KeyUsage(principal.name, principal.key.rate, principal.key.burst_requests, used.tokens, used.counted)
            for principal, used in report.used
        ]
        answers = await self._usage.exchange(report.number, report.day, report.since_ms, lines)
        for (principal, _), (tokens, counted) in zip(report.used, answers, strict=True):
            principal.update_usage(tokens, counted)
        self._unanswered = None

    async def close(self) -> None:
        self._connection.close()
