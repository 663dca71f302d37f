"""Applies the permissions and limits of one API key.

The token bucket and the daily count are local to the process, so authorizing a request needs no call to the broker.
Once a second, UsageSync reports the local usage to Redis and sets both to the usage of all gateways together.
"""

from __future__ import annotations

import time

import msgspec

from smartbatch.gateway.auth.keys import Key
from smartbatch.shared.errors import Forbidden, QuotaExceeded, RateLimited
from smartbatch.shared.telemetry.metric_names import KEY_DECISIONS

DAY_S = 86400


class UsageDelta(msgspec.Struct):
    """Usage to report to Redis: tokens of the bucket, and requests of the daily count."""

    tokens: int = 0
    counted: int = 0


class Principal:
    """One per API key. Used in the event loop, by request handlers and UsageSync."""

    def __init__(self, name: str, key: Key, decisions) -> None:
        self.name = name
        self._decisions = {decision: decisions.labels(name, decision) for decision in KEY_DECISIONS}
        self._used = UsageDelta()
        self._sending = UsageDelta()
        self._counted = 0  # today, by all gateways, as last reported by Redis
        self._day = int(time.time()) // DAY_S
        self._refilled_at = time.monotonic()
        self.key = key
        self._tokens = key.burst_requests

    def change(self, key: Key) -> None:
        """Replace the key and its limits. The usage stays."""
        if key.burst_requests > self.key.burst_requests:
            self._tokens += key.burst_requests - self.key.burst_requests
        self.key = key

    def may_use(self, model: str) -> bool:
        return not self.key.models or model in self.key.models

    def authorize(self, model: str | None) -> None:
        """Authorize and count a request to `model`. None: its body names the model, and `check_model` follows.

        Raises Forbidden, RateLimited or QuotaExceeded.
        """
        key = self.key
        if key.role == "monitor":
            self._decisions["forbidden"].inc()
            raise Forbidden("an API key with the role monitor can only read /metrics and /stats")
        if model is not None:
            self.check_model(model)
        if key.limited:
            self._charge(key)
        self._decisions["admitted"].inc()

    def check_model(self, model: str) -> None:
        """Raises Forbidden."""
        if not self.may_use(model):
            self._decisions["forbidden"].inc()
            raise Forbidden("this API key may not use this model")  # names no other model

    def _charge(self, key: Key) -> None:
        if key.quota:
            left_s = self._until_midnight()
            if self._counted + self._sending.counted + self._used.counted >= key.quota:
                self._decisions["quota"].inc()
                raise QuotaExceeded(f"the daily quota of {key.quota} requests (UTC) is used up", left_s)
        if key.rate:
            self._refill(key)
            if self._tokens < 1:
                self._decisions["rate"].inc()
                raise RateLimited(
                    f"rate limit exceeded: {key.rate:g} requests per second, bursts of {key.burst_requests:g}",
                    (1 - self._tokens) / key.rate,
                )
            self._tokens -= 1
        self._used.tokens += 1
        self._used.counted += 1

    def refund(self) -> None:
        """Uncount a request that failed because of the server."""
        if self.key.quota:
            self._used.counted -= 1

    def _refill(self, key: Key) -> None:
        now = time.monotonic()
        self._tokens = min(key.burst_requests, self._tokens + (now - self._refilled_at) * key.rate)
        self._refilled_at = now

    def _until_midnight(self) -> float:
        """Return the seconds until midnight (UTC). If a new day has begun, reset the count."""
        now = time.time()
        day = int(now) // DAY_S
        if day != self._day:
            self._day = day
            self._counted = 0
        return (day + 1) * DAY_S - now

    # --- called by UsageSync

    def take_usage(self) -> UsageDelta:
        """Return the usage to report. It is kept until `update_usage` confirms it."""
        self._sending, self._used = self._used, UsageDelta()
        return self._sending

    def update_usage(self, tokens: float, counted: int) -> None:
        """Apply the remaining tokens and the daily count of all gateways, which include the usage taken here."""
        self._sending = UsageDelta()
        self._counted = counted
        self._tokens = min(self.key.burst_requests, tokens) - self._used.tokens
        self._refilled_at = time.monotonic()
