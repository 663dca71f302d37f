"""How the weight of a version grows: steps in percent, how long each lasts, and when the next one begins. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from smartbatch.shared.errors import SmartBatchError

MAX_DURATION_S = 30 * 86400.0

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d{1,7}(?:\.\d{1,3})?)([smhd])", re.ASCII)


def parse_duration(text: str) -> float:
    """Return seconds, from 0, of a text like 90s, 10m or 1h. Raises SmartBatchError."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else -1.0
    if not 0 <= seconds <= MAX_DURATION_S:
        raise SmartBatchError(f"a duration must be like 90s, 10m or 1h and at most 30d, got {text[:40]!r}")
    return seconds


def parse_steps(text: str) -> list[float]:
    """Parse growing percentages like 1,5,10,25,50,100, of which the last is 100. Raises SmartBatchError."""
    try:
        steps = [float(word) for word in text.split(",")]
    except ValueError:
        steps = []
    grows = all(a < b for a, b in zip([0.0, *steps], steps, strict=False))  # false for a nan
    if not grows or not steps or steps[-1] != 100 or len(steps) > 1000:
        raise SmartBatchError(f"steps must be growing percentages that end with 100, like 1,10,100, got {text[:60]!r}")
    return steps


def weights_at(percent: float, version: int, others: Mapping[int, float]) -> dict[int, float]:
    """Return the weights, of 100 together, with `percent` for a version and the rest for `others` as they are now."""
    total = sum(others.values())
    rest = {other: round((100 - percent) * weight / total, 6) for other, weight in others.items()}
    return {each: weight for each, weight in sorted({**rest, version: percent}.items()) if weight}


class Waiting(NamedTuple):
    """What the present step still waits for: seconds, and requests of the new version."""

    seconds: float
    requests: int


class Plan:
    """The steps of a promotion, and where it is. Each step lasts equally long, the last one too, and longer while the
    new version has had fewer than `min_requests` in it. Times are seconds on any clock."""

    def __init__(self, steps: Sequence[float], over_s: float, min_requests: int) -> None:
        self.steps = steps
        self.number = 0  # of the present step, from 0
        self.step_s = over_s / len(steps)
        self._min_requests = min_requests
        self._since_s = 0.0
        self._requests_before = 0

    @property
    def percent(self) -> float:
        return self.steps[self.number]

    @property
    def is_last(self) -> bool:
        return self.number == len(self.steps) - 1

    def begin_step(self, number: int, now_s: float, requests: int) -> None:
        """Begin a step. `requests`: of the new version since the promotion began."""
        self.number, self._since_s, self._requests_before = number, now_s, requests

    def waiting(self, now_s: float, requests: int) -> Waiting | None:
        """Return what the present step waits for, None if it has ended."""
        seconds = self._since_s + self.step_s - now_s
        missing = self._requests_before + self._min_requests - requests
        return Waiting(max(0.0, seconds), max(0, missing)) if seconds > 0 or missing > 0 else None
