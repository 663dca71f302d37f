"""Load shapes: (users, users added or removed per second) as a pure function of the time since the start."""

from __future__ import annotations

import math
from collections.abc import Callable

DEFAULT_RUN_S = 300.0  # run time of a shape if none is given
STEPS = 5


def steady(at_s: float, peak: int, rate: float, run_s: float) -> tuple[int, float]:
    """All users from the start, as fast as `rate` adds them."""
    return peak, rate


def ramp(at_s: float, peak: int, rate: float, run_s: float) -> tuple[int, float]:
    """Grow linearly to all users at the end."""
    return max(1, math.ceil(peak * at_s / run_s)), peak


def steps(at_s: float, peak: int, rate: float, run_s: float) -> tuple[int, float]:
    """Add a fifth of the users after each fifth of the time."""
    step = min(STEPS, int(at_s / run_s * STEPS) + 1)
    return max(1, round(peak * step / STEPS)), peak


def spike(at_s: float, peak: int, rate: float, run_s: float) -> tuple[int, float]:
    """Run a tenth of the users, but all of them in the middle fifth of the time, to see the recovery afterwards."""
    return (peak if 0.4 <= at_s / run_s < 0.6 else max(1, peak // 10)), peak


Shape = Callable[[float, int, float, float], tuple[int, float]]
SHAPES: dict[str, Shape] = {each.__name__: each for each in (steady, ramp, steps, spike)}


def users_at(shape: str, at_s: float, peak: int, rate: float, run_s: float | None) -> tuple[int, float] | None:
    """Return (users, users per second), or None once the run time is over. Only `steady` may run indefinitely."""
    if run_s is None and shape != "steady":
        run_s = DEFAULT_RUN_S
    if run_s is not None and at_s >= run_s:
        return None
    return SHAPES[shape](at_s, peak, rate, run_s or math.inf)
