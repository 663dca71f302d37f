"""Load shapes: (users, users added or removed per second) as a pure function of the time since the start."""

from __future__ import annotations

import math
from collections.abc import Callable

DEFAULT_RUN_S = 300.0  # of a shape without a run time
STEPS = 5


def steady(at_s: float, peak: int, rate: float, run_s: float) -> tuple[int, float]:
    """All users from the beginning, as fast as `rate` starts them."""
    return peak, rate


def ramp(at_s: float, peak: int, rate: float, run_s: float) -> tuple[int, float]:
    """Linearly more users, all of them at the end."""
    return max(1, math.ceil(peak * at_s / run_s)), peak


def steps(at_s: float, peak: int, rate: float, run_s: float) -> tuple[int, float]:
    """A fifth more users after each fifth of the time."""
    step = min(STEPS, int(at_s / run_s * STEPS) + 1)
    return max(1, round(peak * step / STEPS)), peak


def spike(at_s: float, peak: int, rate: float, run_s: float) -> tuple[int, float]:
    """A tenth of the users, all of them in the middle fifth of the time, then a tenth again: does it recover?"""
    return (peak if 0.4 <= at_s / run_s < 0.6 else max(1, peak // 10)), peak


Shape = Callable[[float, int, float, float], tuple[int, float]]
SHAPES: dict[str, Shape] = {each.__name__: each for each in (steady, ramp, steps, spike)}


def users_at(shape: str, at_s: float, peak: int, rate: float, run_s: float | None) -> tuple[int, float] | None:
    """Return (users, users per second), or None once the run time is over. Only `steady` may run without end."""
    if run_s is None and shape != "steady":
        run_s = DEFAULT_RUN_S
    if run_s is not None and at_s >= run_s:
        return None
    return SHAPES[shape](at_s, peak, rate, run_s or math.inf)
