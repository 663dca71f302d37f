"""The hazard of an arrival by how long nobody has come: of so many milliseconds waited at that age, how many ended in
one. Pure: seconds in, seconds out."""

from __future__ import annotations

from bisect import bisect_right

# The ages at which the hazard may change, in seconds. Redis gives admissions in milliseconds.
EDGES_S = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
# Wait only if so many more are expected within what is left of the window: it is more likely than not that one comes.
WORTH_IT = 0.7
# What is learned fades by half over so many arrivals or times that nobody came.
HALF_LIFE = 64


class Hazard:
    """Learned, and fading. Before anything is known, waiting is right; a few times that nobody came are enough to know
    better."""

    def __init__(self) -> None:
        self._keep = 0.5 ** (1 / HALF_LIFE)
        self._came = [0.3] * len(EDGES_S)
        self._waited_s = [0.001] * len(EDGES_S)

    def learn(self, seconds: float, *, came: bool) -> None:
        """For so long nobody came, and then somebody did, or what was waited for was over."""
        last = _bin(seconds)
        for index in range(last + 1):
            end = EDGES_S[index + 1] if index < last else seconds
            self._came[index] *= self._keep
            self._waited_s[index] = self._waited_s[index] * self._keep + end - EDGES_S[index]
        self._came[last] += came

    def quiet_age_s(self, age_end: float) -> float:
        """How long one is still expected, if the wait could last until `age_end`; 0: from the first moment not."""
        expected = 0.0
        for index in range(_bin(age_end), -1, -1):
            end = min(age_end, EDGES_S[index + 1]) if index + 1 < len(EDGES_S) else age_end
            hazard = self._came[index] / self._waited_s[index]
            expected += (end - EDGES_S[index]) * hazard
            if expected >= WORTH_IT:
                return EDGES_S[index] + (expected - WORTH_IT) / hazard
        return 0.0


def _bin(seconds: float) -> int:
    return max(0, bisect_right(EDGES_S, seconds) - 1)
