"""Is anybody else coming? Learned from the arrivals themselves. Pure: times in, seconds out.

What is learned is the hazard of an arrival (`hazard.py`). So a burst of clients that all got their answers together is
waited for until it is over, a steady stream is waited for as long as it is worth it, and a client alone, who asks again
only when it has its answer, is never waited for.

There are two of it: while some of those who have just been answered are not back (*owed*), and while none is. Clients
that ask again once they have their answers are all here when the last of them is back, so nothing comes while none is
owed, and the batch closes with the last one. In a stream that asks no matter what was answered both are the same.

Only time while the one before is still here counts (waiting, or running): what comes after its reply may have been
caused by it, and no waiting would have brought it sooner. Beside other workers only the waiting counts: what comes
while a batch runs they may take, and then it isn't seen here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from smartbatch.worker.batching.hazard import HazardEstimator

GRAIN_S = 0.001  # Redis gives admissions in whole milliseconds: one that came back at once may seem to be so early
# Once in so many times one waits although nobody is expected, or a change for the better would never be seen. Each time
# that nobody comes even then it is done half as often, down to once in EXPLORE_AT_LEAST_EVERY.
EXPLORE_EVERY, EXPLORE_AT_LEAST_EVERY = 64, 1024


class ArrivalPredictor:
    """One worker's view of one model. Called from its event loop only. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._none_owed = HazardEstimator()
        self._some_owed = HazardEstimator()
        self._owed = 0  # of those who were answered since a batch was closed last, so many haven't come again
        self._answered_at = -math.inf
        self._since: float | None = None  # the last one came; or others, who came before it, were answered
        self._until = math.inf  # the last one was answered, or may have been followed by one that another worker took
        self._hazard = self._none_owed  # what applies since then
        self._explore_every = EXPLORE_EVERY
        self._since_explored = 0
        self._exploring = False

    def came(self, admitted_at: Sequence[float], *, learn: bool) -> None:
        """Take in new entries, oldest first. From a backlog there is nothing to `learn`: nobody waits for it."""
        for at in admitted_at:
            if learn and self._since is not None:
                self._learn(self._since, at)
            if self._exploring:
                self._explore_every, self._exploring = EXPLORE_EVERY, False
            self._since, self._until = at, math.inf
            self._hazard = self._none_owed
            if at > self._answered_at - GRAIN_S:
                self._owed = max(0, self._owed - 1)
                self._hazard = self._of(self._owed)

    def _learn(self, since: float, at: float) -> None:
        """One came at `since`, and the next one `at`."""
        end, hazard = min(at, self._until), self._hazard
        if since < self._answered_at < end:  # from then on some were owed
            hazard.learn(self._answered_at - since, came=False)
            since, hazard = self._answered_at, self._of(self._owed)
        hazard.learn(max(0.0, end - since), came=at < self._until - GRAIN_S)

    def closed(self, at: float, *, sole_worker: bool) -> None:
        """A batch is closed. Who isn't back by now isn't waited for as one who was just answered. Without
        `alone` there are other workers, who may take what comes from now on."""
        self._owed = 0
        if not sole_worker:
            self._until = min(self._until, at)
        if self._exploring:
            self._explore_every = min(EXPLORE_AT_LEAST_EVERY, 2 * self._explore_every)
            self._exploring = False

    def answered(self, claimed_entries: int, at: float, *, last: bool) -> None:
        """A batch has run, in which the `last` one was who came, as far as is known."""
        self._owed += claimed_entries
        self._answered_at = at
        if last:
            self._until = min(self._until, at)

    def idle_at(self, now: float, window_end: float) -> float:
        """When nobody else will be expected any more, if nobody comes: between `now` and `window_end`."""
        since = now if self._since is None else min(max(self._since, self._answered_at), now)
        return max(now, since + self._of(self._owed).idle_age_s(window_end - since))

    def expects(self, within_s: float, *, running: int = 0) -> bool:
        """Whether others are expected so soon after one that came just now; or, with so many `running`, after one that
        came once they are answered."""
        return self._of(self._owed + running - 1).idle_age_s(within_s) > 0.0

    def explores(self) -> bool:
        """Whether to wait this time although nobody is expected. Asked when a batch would close."""
        self._since_explored += 1
        if self._since_explored < self._explore_every:
            return False
        self._since_explored = 0
        self._exploring = True
        return True

    def _of(self, owed: int) -> HazardEstimator:
        return self._some_owed if owed > 0 else self._none_owed
