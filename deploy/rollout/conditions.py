"""When a promotion is given up: conditions like `errors>1%`, `p99>1.5x` and `p99>200ms`. Pure.

A condition turns into two shares of bad requests, that of the new version and that of the versions before, over the
same time, and the share that is acceptable. `p99>200ms` says that more than 1 % of the requests take over 200 ms.

Latencies are known in buckets of 9 % (gateway/core/metrics.py). A request counts as too slow if all of its bucket is,
so a version that is less than a fifth above a limit may pass.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from smartbatch.deploy.rollout.significance import Share, is_worse
from smartbatch.deploy.rollout.version_stats import failed
from smartbatch.gateway.core.metrics import Summary
from smartbatch.shared.errors import SmartBatchError

DEFAULTS = ("errors>1%", "p99>1.5x")

_ERRORS = re.compile(r"errors>(\d{1,3}(?:\.\d{1,6})?)%")
_LATENCY = re.compile(r"p(\d{1,2}(?:\.\d{1,3})?)>(\d{1,9}(?:\.\d{1,6})?)(x|ms|s)")


class Errors(NamedTuple):
    """More than `limit` (0 to 1) of the requests failed."""

    text: str
    limit: float

    def broken(self, new: Summary, old: Summary) -> str:
        """Return what is worse about the new version, "" while nothing is."""
        ours, theirs = (Share(failed(each), failed(each) + each.answered) for each in (new, old))
        if not is_worse(ours, theirs, self.limit):
            return ""
        return f"{self.text}: {_of(ours)} failed, {_of(theirs)} of the versions before"


class Latency(NamedTuple):
    """A percentile of the latency is above `limit` milliseconds, or times that of the versions before (`relative`)."""

    text: str
    percent: float
    limit: float
    relative: bool

    def broken(self, new: Summary, old: Summary) -> str:
        """As `Errors.broken`. Without requests of the versions before nothing is known of a relative limit."""
        limit_ms = self.limit
        if self.relative:
            if not old.answered:
                return ""
            limit_ms *= old.percentile_at_most_ms(self.percent)
        ours, theirs = (Share(each.slower_than(limit_ms), each.answered) for each in (new, old))
        if not is_worse(ours, theirs, 1 - self.percent / 100):
            return ""
        return f"{self.text}: {_of(ours)} took over {limit_ms:.3g} ms, {_of(theirs)} of the versions before"


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
    """Decides whether a new version is worse. Called at each look with what both counted since the promotion began.

    The first requests of a version may be slow although its workers have warmed up: connections are made, caches fill.
    So latencies count from WARM_UP_S after its first request, of both sides; errors from the first request.
    """

    WARM_UP_S = 5.0

    def __init__(self, conditions: Sequence[Condition]) -> None:
        self._conditions = conditions
        self._first_at: float | None = None
        self._warm: tuple[Summary, Summary] | None = None

    def broken(self, now_s: float, new: Summary, old: Summary) -> str:
        """Return why the new version is worse, "" while it isn't known to be."""
        if self._first_at is None and new.outcomes:
            self._first_at = now_s
        if self._warm is None and self._first_at is not None and now_s >= self._first_at + self.WARM_UP_S:
            self._warm = new, old
        for condition in self._conditions:
            if isinstance(condition, Errors):
                reason = condition.broken(new, old)
            elif self._warm:
                reason = condition.broken(new.since(self._warm[0]), old.since(self._warm[1]))
            else:
                continue
            if reason:
                return reason
        return ""


def _of(share: Share) -> str:
    return f"{share.bad:,} of {share.all:,} requests ({share.bad / max(1, share.all):.2%})"
