"""The hazard of an arrival by how long nobody has come: of so many milliseconds waited at that age, how many ended in
one. Pure: seconds in, seconds out."""

from __future__ import annotations

from bisect import bisect_right

# The ages at which the hazard may change, in seconds. Redis gives admissions in milliseconds.
EDGES_S = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
# Wait only if so many more are expected within what is left of the window. (With 0.7, the bursts of docs/scale.md at
# 20 % of capacity made batches of 87 % of the one queue's.)
WORTH_IT = 0.5
# What is learned fades by half over so many arrivals or times that nobody came.
HALF_LIFE = 16
# Before anything is known, waiting is right: so many arrivals a second. An age of which little is known is taken to be
# like the one before it, as if that had been seen for so long.
UNKNOWN_PER_S = 300.0
LIKE_BEFORE_S = 0.001


class HazardEstimator:
    """Learned, and fading."""

    def __init__(self) -> None:
        self._keep = 0.5 ** (1 / HALF_LIFE)
        self._came = [0.0] * len(EDGES_S)
        self._waited_s = [0.0] * len(EDGES_S)

    def learn(self, seconds: float, *, came: bool) -> None:
        """For so long nobody came, and then somebody did, or what was waited for was over."""
        last = _bin(seconds)
        for index in range(last + 1):
            end = EDGES_S[index + 1] if index < last else seconds
            self._came[index] *= self._keep
            self._waited_s[index] = self._waited_s[index] * self._keep + end - EDGES_S[index]
        self._came[last] += came

    def idle_age_s(self, age_end: float) -> float:
        """How long one is still expected, if the wait could last until `age_end`; 0: from the first moment not."""
        hazard, expected, end = UNKNOWN_PER_S, 0.0, age_end
        hazards = [
            hazard := (came + LIKE_BEFORE_S * hazard) / (waited_s + LIKE_BEFORE_S)
            for came, waited_s in zip(self._came, self._waited_s, strict=True)
        ]
        for index in range(_bin(age_end), -1, -1):
            hazard, begin = hazards[index], EDGES_S[index]
            expected += (end - begin) * hazard
            if expected >= WORTH_IT:
                return begin + (expected - WORTH_IT) / hazard
            end = begin
        return 0.0


def _bin(seconds: float) -> int:
    return max(0, bisect_right(EDGES_S, seconds) - 1)
