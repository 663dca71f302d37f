"""The search space."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Container
from typing import Any, NamedTuple

import optuna

DEFAULTS = {"MAX_BATCH_SIZE": 32, "MAX_WAIT_TIME": 0.01}
WAITS_S = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


class Settings(NamedTuple):
    """One point of the space: the number of workers, and settings by their names."""

    MAX_BATCH_SIZE: int
    MAX_WAIT_TIME: float  # seconds
    workers: int
    DECODE_THREADS: int  # 0: one per core, up to 4

    def __str__(self) -> str:
        batching = f"MAX_BATCH_SIZE={self.MAX_BATCH_SIZE} MAX_WAIT_TIME={self.MAX_WAIT_TIME:g}"
        return f"{batching} workers={self.workers} DECODE_THREADS={self.DECODE_THREADS}"


class Space(NamedTuple):
    """The values of each setting; Optuna suggests one of each."""

    MAX_BATCH_SIZE: tuple[int, ...]
    MAX_WAIT_TIME: tuple[float, ...]
    workers: tuple[int, ...]
    DECODE_THREADS: tuple[int, ...]

    @property
    def points(self) -> int:
        return math.prod(map(len, self))

    def other_than(self, tried: Container[Settings]) -> dict[str, Any]:
        """Return an untried point. There must be one."""
        untried = [point for point in map(Settings._make, itertools.product(*self)) if point not in tried]
        return random.Random(len(untried)).choice(untried)._asdict()

    def suggest(self, trial: optuna.Trial) -> Settings:
        return Settings(*(trial.suggest_categorical(name, values) for name, values in self._asdict().items()))

    def default(self) -> dict[str, Any] | None:
        """Return a worker's default settings; None if they are outside the space."""
        point = {**{name: values[0] for name, values in self._asdict().items()}, **DEFAULTS}
        return point if all(point[name] in values for name, values in self._asdict().items()) else None


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Return 1, 2, 4, … up to and including `largest`."""
    return (*(1 << power for power in range(largest.bit_length()) if 1 << power < largest), largest)


def waits(objective_s: float) -> tuple[float, ...]:
    """Return the windows of at most half the latency objective."""
    return tuple(wait for wait in WAITS_S if wait <= objective_s / 2) or (0.0,)
