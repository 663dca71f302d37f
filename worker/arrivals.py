"""Is anybody else coming? Learned from the arrivals themselves. Pure: times in, seconds out.

What is learned is the hazard of an arrival by the time since the one before: of so many milliseconds spent waiting at
that age, how many ended in an arrival. So a burst of clients that all got their answers together is waited for until
it is over, a steady stream is waited for as long as it is worth it, and a client alone, who asks again only when it has
its answer, is never waited for.

Only time while the one before is still here counts (waiting, or running): what comes after its reply may have been
caused by it, and no waiting would have brought it sooner.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

# The ages at which the hazard may change, in seconds. Redis gives admissions in milliseconds.
EDGES_S = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
# Wait only if so many more are expected within what is left of the window: it is more likely than not that one comes.
WORTH_IT = 0.7
# What is learned fades by half over so many arrivals or times that nobody came.
HALF_LIFE = 64
# Once in so many times one waits although nobody is expected, or a change for the better would never be seen.
EXPLORE_EVERY = 64


class Arrivals:
    """One worker's view of one model. Called from its event loop only. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._keep = 0.5 ** (1 / HALF_LIFE)
        # Before anything is known, waiting is right; a few times that nobody came are enough to know better.
        self._came = [0.3] * len(EDGES_S)
        self._waited_s = [0.001] * len(EDGES_S)
        self._last_at: float | None = None
        self._last_left_at = math.inf  # when the last one had its answer
        self._since_explored = 0

    def came(self, admitted_at: Sequence[float], *, learn: bool) -> None:
        """Take in new entries, oldest first. From a backlog there is nothing to `learn`: nobody waits for it."""
        if learn:
            for at in admitted_at:
                self._came_one(at)
        elif admitted_at:
            self._last_at, self._last_left_at = admitted_at[-1], math.inf

    def left(self, at: float) -> None:
        """The batch that the last one was in has run."""
        self._last_left_at = at

    def quiet_at(self, now: float, window_end: float) -> float:
        """When nobody else will be expected any more, if nobody comes: between `now` and `window_end`."""
        last_at = now if self._last_at is None else min(self._last_at, now)
        return max(now, last_at + self._quiet_age_s(window_end - last_at))

    def waits(self, window_s: float) -> bool:
        """Whether one that came just now would be waited with for others, alone and with the whole window left."""
        return self._quiet_age_s(window_s) > 0.0

    def _quiet_age_s(self, age_end: float) -> float:
        """How long after the last one another is expected still; 0: from the first moment not."""
        expected = 0.0
        for index in range(_bin(age_end), -1, -1):
            end = min(age_end, EDGES_S[index + 1]) if index + 1 < len(EDGES_S) else age_end
            hazard = self._came[index] / self._waited_s[index]
            expected += (end - EDGES_S[index]) * hazard
            if expected >= WORTH_IT:
                return EDGES_S[index] + (expected - WORTH_IT) / hazard
        return 0.0

    def explores(self) -> bool:
        """Whether to wait this time although nobody is expected. Asked once for each batch that wouldn't wait."""
        self._since_explored += 1
        if self._since_explored < EXPLORE_EVERY:
            return False
        self._since_explored = 0
        return True

    def _came_one(self, at: float) -> None:
        if self._last_at is not None:
            here = at <= self._last_left_at
            self._learn(max(0.0, (at if here else self._last_left_at) - self._last_at), float(here))
        self._last_at, self._last_left_at = at, math.inf

    def _learn(self, seconds: float, came: float) -> None:
        last = _bin(seconds)
        for index in range(last + 1):
            end = EDGES_S[index + 1] if index < last else seconds
            self._came[index] *= self._keep
            self._waited_s[index] = self._waited_s[index] * self._keep + end - EDGES_S[index]
        self._came[last] += came


def _bin(seconds: float) -> int:
    return max(0, bisect_right(EDGES_S, seconds) - 1)
