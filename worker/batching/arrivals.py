"""Predict whether another request arrives soon enough to be worth waiting for. Pure: times in, seconds out.

The predictor learns the hazard rate of arrivals: their rate as a function of the time since the last one. As a result
a batch waits
- for clients that were answered together until all of them have sent their next request;
- in a steady stream, while another arrival is expected within the window;
- never for a single client that sends its next request after each reply.

There are two estimators: one for the time while clients that were just answered have not sent their next request
(they are *returning*), the other for the time without returning clients. In a closed loop nothing arrives once the last
client has returned: the second estimator learns that, and the batch closes at once. In an open loop both are equal.

Only the time before the reply counts: a later request may be a consequence of that reply, and waiting would not have
brought it sooner. If there are other workers, only the time before the batch closes counts: they may claim entries that
arrive while this worker runs a batch, and it never sees those.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

# Ages (seconds since the last arrival) at which the hazard rate may change. Admission times are whole milliseconds.
EDGES_S = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
# A batch waits only if this many arrivals are expected in the rest of the window. (With 0.7, bursts at 20 % of capacity
# in docs/scale.md made batches of 87 % of the single queue's size.)
MIN_EXPECTED = 0.5
HALF_LIFE = 16  # observations after which an old one counts half
# The prior, in arrivals a second: without observations a batch waits. The prior of each age is the rate of the age
# before it, with the weight of PRIOR_WEIGHT_S of observed waiting.
PRIOR_PER_S = 300.0
PRIOR_WEIGHT_S = 0.001

RESOLUTION_S = 0.001  # of admission times: a request sent right after a reply may seem to precede it
# One batch in EXPLORE_EVERY waits although no arrival is likely, else an increase of the load would go unnoticed. The
# interval doubles each time nothing arrives, up to MAX_EXPLORE_EVERY.
EXPLORE_EVERY, MAX_EXPLORE_EVERY = 64, 1024


class HazardEstimator:
    """Hazard rate by age: arrivals at that age per second waited at that age, with exponential forgetting."""

    def __init__(self) -> None:
        self._keep = 0.5 ** (1 / HALF_LIFE)
        self._arrivals = [0.0] * len(EDGES_S)
        self._waited_s = [0.0] * len(EDGES_S)

    def learn(self, seconds: float, *, arrived: bool) -> None:
        """Add one observation: `seconds` without an arrival, ended by one or (not `arrived`) by something else."""
        last = _bin(seconds)
        for index in range(last + 1):
            end = EDGES_S[index + 1] if index < last else seconds
            self._arrivals[index] *= self._keep
            self._waited_s[index] = self._waited_s[index] * self._keep + end - EDGES_S[index]
        self._arrivals[last] += arrived

    def idle_age_s(self, age_end: float) -> float:
        """Return the age from which waiting until `age_end` is no longer worthwhile; 0 when it never is."""
        hazard, expected, end = PRIOR_PER_S, 0.0, age_end
        hazards = [
            hazard := (arrivals + PRIOR_WEIGHT_S * hazard) / (waited_s + PRIOR_WEIGHT_S)
            for arrivals, waited_s in zip(self._arrivals, self._waited_s, strict=True)
        ]
        for index in range(_bin(age_end), -1, -1):
            hazard, begin = hazards[index], EDGES_S[index]
            expected += (end - begin) * hazard
            if expected >= MIN_EXPECTED:
                return begin + (expected - MIN_EXPECTED) / hazard
            end = begin
        return 0.0


class ArrivalPredictor:
    """One worker's view of one model. Called from its event loop only. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._none_returning = HazardEstimator()
        self._some_returning = HazardEstimator()
        self._returning = 0  # clients answered since the last batch closed that have not sent their next request
        self._answered_at = -math.inf
        self._since: float | None = None  # start of the current observation: the last arrival
        self._until = math.inf  # its end if nothing arrives: the reply, or with other workers the close
        self._hazard = self._none_returning  # the estimator that learns from it
        self._explore_every = EXPLORE_EVERY
        self._since_explored = 0
        self._exploring = False

    def observe(self, admitted_at: Sequence[float], *, learn: bool) -> None:
        """Add new arrivals, oldest first. Don't `learn` from a backlog: no batch waited for it."""
        for at in admitted_at:
            if learn and self._since is not None:
                self._learn(self._since, at)
            if self._exploring:
                self._explore_every, self._exploring = EXPLORE_EVERY, False
            self._since, self._until = at, math.inf
            self._hazard = self._none_returning
            if at > self._answered_at - RESOLUTION_S:
                self._returning = max(0, self._returning - 1)
                self._hazard = self._estimator(self._returning)

    def _learn(self, since: float, at: float) -> None:
        """Learn from two successive arrivals."""
        end, hazard = min(at, self._until), self._hazard
        if since < self._answered_at < end:  # a reply in between: two observations
            hazard.learn(self._answered_at - since, arrived=False)
            since, hazard = self._answered_at, self._estimator(self._returning)
        hazard.learn(max(0.0, end - since), arrived=at < self._until - RESOLUTION_S)

    def batch_closed(self, at: float, *, sole_worker: bool) -> None:
        """Expect no more returning clients. Unless this is the `sole_worker`, others may claim later arrivals."""
        self._returning = 0
        if not sole_worker:
            self._until = min(self._until, at)
        if self._exploring:
            self._explore_every = min(MAX_EXPLORE_EVERY, 2 * self._explore_every)
            self._exploring = False

    def batch_answered(self, requests: int, at: float, *, last: bool) -> None:
        """Record that a batch has run. `last`: it holds the last known arrival."""
        self._returning += requests
        self._answered_at = at
        if last:
            self._until = min(self._until, at)

    def idle_at(self, now: float, window_end: float) -> float:
        """Return when another arrival stops being likely if none comes: between `now` and `window_end`."""
        since = now if self._since is None else min(max(self._since, self._answered_at), now)
        return max(now, since + self._estimator(self._returning).idle_age_s(window_end - since))

    def expects(self, within_s: float, *, running: int = 0) -> bool:
        """Return whether another arrival is likely within `within_s` of an arrival now, or, with `running` requests on
        the device, of an arrival after their replies."""
        return self._estimator(self._returning + running - 1).idle_age_s(within_s) > 0.0

    def should_explore(self) -> bool:
        """Return whether this batch waits although no arrival is likely. Call it once when a batch would close."""
        self._since_explored += 1
        if self._since_explored < self._explore_every:
            return False
        self._since_explored = 0
        self._exploring = True
        return True

    def _estimator(self, returning: int) -> HazardEstimator:
        return self._some_returning if returning > 0 else self._none_returning


def _bin(seconds: float) -> int:
    return max(0, bisect_right(EDGES_S, seconds) - 1)
