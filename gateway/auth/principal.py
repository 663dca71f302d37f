"""The holder of one API key in this process: what it may use, and how much of its limits is left.

The token bucket and the day's count are this process's own, so a request is authorized without a call to the broker.
Once a second UsageSync reports to Redis what was used here, and sets both to what all gateways used together.
"""

from __future__ import annotations

import time

import msgspec

from smartbatch.gateway.auth.keys import Key
from smartbatch.shared.errors import Forbidden, QuotaExceeded, RateLimited
from smartbatch.shared.telemetry.metric_names import KEY_DECISIONS

DAY_S = 86400


class UsageDelta(msgspec.Struct):
    """Usage that hasn't been reported to Redis. `counted` goes into the day's count."""

    tokens: int = 0
    counted: int = 0


class Principal:
    """Used by the event loop's handlers and by UsageSync."""

    def __init__(self, name: str, key: Key, decisions) -> None:
        self.name = name
        self._decisions = {decision: decisions.labels(name, decision) for decision in KEY_DECISIONS}
        self._used = UsageDelta()
        self._sending = UsageDelta()
        self._counted = 0  # today, by all gateways, as Redis reported last
        self._day = int(time.time()) // DAY_S
        self._refilled_at = time.monotonic()
        self.key = key
        self._tokens = key.burst_requests

    def change(self, key: Key) -> None:
        """Apply other limits under the same name. The usage stays."""
        if key.burst_requests > self.key.burst_requests:
            self._tokens += key.burst_requests - self.key.burst_requests
        self.key = key

    def may_use(self, model: str) -> bool:
        return not self.key.models or model in self.key.models

    def authorize(self, model: str) -> None:
        """Let a request to `model` through and count it. Raises Forbidden, RateLimited or QuotaExceeded."""
        key = self.key
        if key.role == "monitor":
            self._decisions["forbidden"].inc()
            raise Forbidden("an API key with the role monitor can only read /metrics and /stats")
        if not self.may_use(model):
            self._decisions["forbidden"].inc()
            raise Forbidden("this API key may not use this model")  # without the names of others
        if key.limited:
            self._charge(key)
        self._decisions["admitted"].inc()

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
        """Take a request off the day's count: it failed by the server's fault."""
        if self.key.quota:
            self._used.counted -= 1

    def _refill(self, key: Key) -> None:
        now = time.monotonic()
        self._tokens = min(key.burst_requests, self._tokens + (now - self._refilled_at) * key.rate)
        self._refilled_at = now

    def _until_midnight(self) -> float:
        """Return the seconds to the end of the day (UTC). A new day's count starts at zero."""
        now = time.time()
        day = int(now) // DAY_S
        if day != self._day:
            self._day = day
            self._counted = 0
        return (day + 1) * DAY_S - now

    # --- called by UsageSync

    def take_usage(self) -> UsageDelta:
        """Return the usage to report. It counts as being sent until `settle`."""
        self._sending, self._used = self._used, UsageDelta()
        return self._sending

    def settle(self, tokens: float, counted: int) -> None:
        """Take over the tokens left and the day's count of all gateways, which include what this one has sent."""
        self._sending = UsageDelta()
        self._counted = counted
        self._tokens = min(self.key.burst_requests, tokens) - self._used.tokens
        self._refilled_at = time.monotonic()
