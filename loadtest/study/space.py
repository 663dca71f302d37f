"""What is searched."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Container
from typing import Any, NamedTuple

import optuna

DEFAULTS = {"MAX_BATCH_SIZE": 32, "MAX_WAIT_TIME": 0.01}
WAITS_S = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
STARTED_WITH = ("workers", "DECODE_THREADS")  # a change of these starts the system anew


class Settings(NamedTuple):
    """One point of the search. `workers` is how many are started, the others are settings by their names."""

    MAX_BATCH_SIZE: int
    MAX_WAIT_TIME: float  # seconds
    workers: int
    DECODE_THREADS: int  # 0: as many as there are cores, up to 4

    def __str__(self) -> str:
        shown = f"MAX_BATCH_SIZE={self.MAX_BATCH_SIZE} MAX_WAIT_TIME={self.MAX_WAIT_TIME:g}"
        return f"{shown} workers={self.workers} DECODE_THREADS={self.DECODE_THREADS}"

    @property
    def started_with(self) -> tuple[int, int]:
        return self.workers, self.DECODE_THREADS


class Space(NamedTuple):
    """The values of each; an Optuna study asks one of them each."""

    MAX_BATCH_SIZE: tuple[int, ...]
    MAX_WAIT_TIME: tuple[float, ...]
    workers: tuple[int, ...]
    DECODE_THREADS: tuple[int, ...]

    @property
    def points(self) -> int:
        return math.prod(map(len, self))

    def other_than(self, tried: Container[Settings]) -> dict[str, Any]:
        """Some point that has not been tried; there must be one."""
        untried = [point for point in map(Settings._make, itertools.product(*self)) if point not in tried]
        return random.Random(len(untried)).choice(untried)._asdict()

    def suggest(self, trial: optuna.Trial) -> Settings:
        return Settings(*(trial.suggest_categorical(name, values) for name, values in self._asdict().items()))

    def default(self) -> dict[str, Any] | None:
        """The settings that a worker has of itself, as far as they are searched; None if they are outside."""
        first = {name: values[0] for name, values in self._asdict().items()}
        point = {**first, **DEFAULTS}
        inside = all(point[name] in values for name, values in self._asdict().items())
        return point if inside else None


def batch_sizes(most: int) -> tuple[int, ...]:
    """1, 2, 4, … up to and with `most`."""
    return (*(1 << power for power in range(most.bit_length()) if 1 << power < most), most)


def waits(objective_s: float) -> tuple[float, ...]:
    """Windows that leave something of the latency asked for."""
    return tuple(wait for wait in WAITS_S if wait <= objective_s / 2) or (0.0,)
