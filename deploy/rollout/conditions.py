"""When a promotion is given up: conditions like `errors>1%`, `p99>1.5x` and `p99>200ms`. Pure.

A condition turns into two shares of bad requests, that of the new version and that of the versions before, over the
same time, and the share that is acceptable. `p99>200ms` says that more than 1 % of the requests take over 200 ms.

The first requests of a version may be slow although its workers have warmed up: connections are made, caches fill. So
latencies count from WARM_UP_S after its first request, on both sides; errors count from the first request.

Latencies are known in buckets of 9 % (gateway/core/latency_window.py). A request counts as too slow if all of its
bucket is, so a version that is less than a fifth above a limit may pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from smartbatch.deploy.rollout.significance import Bursts, Share, is_worse
from smartbatch.deploy.rollout.version_stats import failed
from smartbatch.gateway.core.latency_window import Summary
from smartbatch.shared.errors import SmartBatchError

DEFAULTS = ("errors>1%", "p99>1.5x")
WARM_UP_S = 5.0
MIN_LOOKS = 3  # with requests, before anything is judged: what happens in one second may be one event

_ERRORS = re.compile(r"errors>(\d{1,3}(?:\.\d{1,6})?)%", re.ASCII)
_LATENCY = re.compile(r"p(\d{1,2}(?:\.\d{1,3})?)>(\d{1,9}(?:\.\d{1,6})?)(x|ms|s)", re.ASCII)


class Counted(NamedTuple):
    """What the new version and those before have counted over the same time."""

    new: Summary
    old: Summary


class Measure(NamedTuple):
    """`bad`: the share of bad requests in what was counted; `limit`: the acceptable share; `what` is bad about them."""

    bad: Callable[[Summary], Share]
    limit: float
    what: str


class Errors(NamedTuple):
    """More than `limit` (0 to 1) of the requests failed."""

    text: str
    limit: float

    def measure(self, old: Summary) -> Measure:
        return Measure(_failed, self.limit, "failed")


class Latency(NamedTuple):
    """A percentile of the latency is above `limit` milliseconds, or times that of the versions before (`relative`)."""

    text: str
    percent: float
    limit: float
    relative: bool

    def measure(self, old: Summary) -> Measure | None:
        """Return None while nothing is known to compare with."""
        if self.relative and not old.answered:
            return None
        limit_ms = self.limit * (old.percentile_at_most_ms(self.percent) if self.relative else 1.0)
        slower = lambda counted: Share(counted.slower_than(limit_ms), counted.answered)  # noqa: E731
        return Measure(slower, 1 - self.percent / 100, f"took over {limit_ms:.3g} ms")


def _failed(counted: Summary) -> Share:
    return Share(failed(counted), failed(counted) + counted.answered)


Condition = Errors | Latency


def parse_condition(text: str) -> Condition:
    """Parse a condition. Raises SmartBatchError."""
    words = "".join(text.split())
    if (match := _ERRORS.fullmatch(words)) and (percent := float(match[1])) < 100:
        return Errors(words, percent / 100)
    if (match := _LATENCY.fullmatch(words)) and (percent := float(match[1])) > 0:
        limit, unit = float(match[2]), match[3]
        if limit >= (1 if unit == "x" else 1e-3):
            return Latency(words, percent, limit * 1000 if unit == "s" else limit, unit == "x")
    raise SmartBatchError(
        f"a condition must be like errors>1% (of 0 to 100), p99>1.5x (of 1 or more) or p99>200ms, got {text[:60]!r}"
    )


class Judge:
    """Decides whether a new version is worse. Called at each look with what both counted since the promotion began."""

    def __init__(self, conditions: Sequence[Condition]) -> None:
        self._watched = [(condition, Bursts()) for condition in conditions]
        self._first_at: float | None = None
        self._warm: Counted | None = None
        self._last = Summary()

    def broken(self, now_s: float, counted: Counted) -> str:
        """Return why the new version is worse, "" while it isn't known to be."""
        latest, self._last = counted.new.since(self._last), counted.new
        if self._first_at is None and latest.outcomes:
            self._first_at = now_s
        warm = self._warm and Counted(counted.new.since(self._warm.new), counted.old.since(self._warm.old))
        for condition, bursts in self._watched:
            judged = counted if isinstance(condition, Errors) else warm
            if judged and (reason := _broken(condition, judged, latest, bursts)):
                return reason
        if self._warm is None and self._first_at is not None and now_s >= self._first_at + WARM_UP_S:
            self._warm = counted
        return ""


def _broken(condition: Condition, counted: Counted, latest: Summary, bursts: Bursts) -> str:
    measure = condition.measure(counted.old)
    if measure is None:
        return ""
    bursts.add(measure.bad(latest))
    new, old = map(measure.bad, counted)
    if bursts.looks < MIN_LOOKS or not is_worse(new, old, measure.limit, bursts.size):
        return ""
    return f"{condition.text}: {_of(new)} {measure.what}, {_of(old)} of the versions before"


def _of(share: Share) -> str:
    return f"{share.bad:,} of {share.all:,} requests ({share.bad / max(1, share.all):.2%})"
