"""Whether a version is worse than a limit and worse than another version, or whether that may be chance. Pure.

Both questions are about a share: of requests that failed, or of requests that took too long. Each is answered by the
exact probability of so many or more of them, if requests were independent. Below ALPHA it isn't taken for chance.

Requests are not independent: a pause of half a second delays all that are under way. So bad requests that come in
bursts count less, by how much more their number varies from second to second than that of independent ones would.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

# A promotion looks every second, and each look may go wrong. With this value a healthy version is aborted in fewer than
# one of a hundred promotions of ten minutes (tests/deploy/rollout/test_false_alarms.py counts them).
ALPHA = 1e-4


class Share(NamedTuple):
    """`bad` of `all` requests."""

    bad: int
    all: int


class Bursts:
    """How much bad requests come in bursts: their index of dispersion over the looks of a promotion."""

    def __init__(self) -> None:
        self.looks = 0  # at which there were new requests
        self._bad = self._all = 0
        self._squares = 0.0

    def add(self, new: Share) -> None:
        """Add the requests since the last look."""
        if new.all:
            self.looks += 1
            self._bad += new.bad
            self._all += new.all
            self._squares += new.bad**2 / new.all

    @property
    def size(self) -> float:
        """The variance of their number, by what it would be if they were independent; at least 1. (Pearson's statistic
        by its degrees of freedom.)"""
        if self.looks < 2 or not self._bad:
            return 1.0
        return max(1.0, (self._all / self._bad * self._squares - self._bad) / (self.looks - 1))


def is_worse(new: Share, old: Share, limit: float, burst_size: float = 1.0) -> bool:
    """Return whether a share of bad requests is above `limit` (0 to 1), and above the other version's share.

    Without requests of the other version only the limit counts.
    """
    bad = int(new.bad / burst_size)
    new = Share(bad, max(bad, math.ceil(new.all / burst_size)))
    return binomial_tail(new.bad, new.all, limit) < ALPHA and (not old.all or same_share_tail(new, old) < ALPHA)


def binomial_tail(bad: int, total: int, rate: float) -> float:
    """Return the probability of `bad` or more bad ones of `total` if each is bad with probability `rate`.

    Returns 1.0 if `bad` is not above the expected number.
    """
    if bad <= total * rate:
        return 1.0
    if rate <= 0:
        return 0.0
    first = _log_choose(total, bad) + bad * math.log(rate) + (total - bad) * math.log1p(-rate)
    odds = rate / (1 - rate)
    return _sum_of_terms(first, ((total - n) / (n + 1) * odds for n in range(bad, total)))


def same_share_tail(new: Share, old: Share) -> float:
    """Return the probability that of all bad requests so many or more are the new version's, if both versions have the
    same share of them (Fisher's exact test). Returns 1.0 if the new version's share is not the higher one."""
    bad, total = new.bad + old.bad, new.all + old.all
    if new.bad * old.all <= old.bad * new.all:
        return 1.0
    first = _log_choose(new.all, new.bad) + _log_choose(old.all, old.bad) - _log_choose(total, bad)
    rest = old.all - bad
    ratios = ((new.all - n) * (bad - n) / ((n + 1) * (rest + n + 1)) for n in range(new.bad, min(bad, new.all)))
    return _sum_of_terms(first, ratios)


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def _sum_of_terms(first_log: float, ratios: Iterable[float]) -> float:
    """Return the sum of a falling series, from the logarithm of its first term and the ratio of each to the last."""
    term = total = math.exp(first_log)
    for ratio in ratios:
        term *= ratio
        total += term
        if term <= total * 1e-12:
            break
    return min(1.0, total)
