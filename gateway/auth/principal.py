"""One key's holder in this process: what it may do, and how much of its limits is left.

The token bucket and the day's count are this process's own, so a request is let through or refused without asking
anybody; once a second the ledger tells Redis what was spent here and sets both to what all gateways spent together.
"""

from __future__ import annotations

import time

import msgspec

from smartbatch.gateway.auth.keys import Key
from smartbatch.shared.errors import Forbidden, QuotaExceeded, RateLimited
from smartbatch.shared.telemetry.metric_names import KEY_DECISIONS

DAY_S = 86400


class Anonymous:
    """Where no keys are set: may do everything, and isn't counted."""

    name: str = ""

    def enter(self, model: str) -> None:
        """Let a request to `model` through, counted; or raise Forbidden, RateLimited or QuotaExceeded."""

    def give_back(self) -> None:
        """Take the last request off the day's count: it failed by our fault."""

    def may_use(self, model: str) -> bool:
        """Whether a model is this caller's business at all."""
        return True


ANONYMOUS = Anonymous()


class UsageDelta(msgspec.Struct):
    """What was let through here and Redis hasn't heard of."""

    tokens: int = 0
    counted: int = 0


class Principal(Anonymous):
    """Used by the event loop's handlers and by the ledger."""

    def __init__(self, name: str, key: Key, decisions) -> None:
        self.name = name
        self._decisions = {decision: decisions.labels(name, decision) for decision in KEY_DECISIONS}
        self._spent = UsageDelta()
        self._sending = UsageDelta()
        self._counted = 0  # today, by all gateways, as Redis said last
        self._day = int(time.time()) // DAY_S
        self._at = time.monotonic()
        self.key = key
        self._tokens = key.burst_requests

    def change(self, key: Key) -> None:
        """Other limits under the same name; what was spent stays spent."""
        if key.burst_requests > self.key.burst_requests:
            self._tokens += key.burst_requests - self.key.burst_requests
        self.key = key

    def may_use(self, model: str) -> bool:
        return not self.key.models or model in self.key.models

    def enter(self, model: str) -> None:
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
            if self._counted + self._sending.counted + self._spent.counted >= key.quota:
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
        self._spent.tokens += 1
        self._spent.counted += 1

    def give_back(self) -> None:
        if self.key.quota:
            self._spent.counted -= 1

    def _refill(self, key: Key) -> None:
        now = time.monotonic()
        self._tokens = min(key.burst_requests, self._tokens + (now - self._at) * key.rate)
        self._at = now

    def _until_midnight(self) -> float:
        """Seconds to the end of the day (UTC); a new day begins with a count of nothing."""
        now = time.time()
        day = int(now) // DAY_S
        if day != self._day:
            self._day = day
            self._counted = 0
        return (day + 1) * DAY_S - now

    # --- the ledger's side

    def take_spent(self) -> UsageDelta:
        """What is to be told; it counts as being sent until `settle`."""
        self._sending, self._spent = self._spent, UsageDelta()
        return self._sending

    def settle(self, tokens: float, counted: int) -> None:
        """Take over what all gateways have left and counted, this one's sent part included."""
        self._sending = UsageDelta()
        self._counted = counted
        self._tokens = min(self.key.burst_requests, tokens) - self._spent.tokens
        self._at = time.monotonic()
