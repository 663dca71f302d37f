"""What a row of the benchmark hands back."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """One number, with the goal it is held against; without a goal it is told and not judged."""

    name: str
    measured: float
    unit: str
    goal: float | None = None
    sense: Literal["at least", "at most"] = "at least"

    @property
    def ratio(self) -> float | None:
        return self.measured / self.goal if self.goal else None

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.measured >= self.goal if self.sense == "at least" else self.measured <= self.goal

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "ratio": self.ratio, "met": self.met}


@dataclass
class Outcome:
    """The figures of a row and, in `details`, what they were made of: enough to make them again."""

    figures: list[Figure]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """How long to measure, and where progress goes."""

    quick: bool = False

    def seconds(self, full: float) -> float:
        """How long one measurement takes: `full`, or one of a quick run."""
        return min(full, 1.0) if self.quick else full

    def rounds(self, full: int) -> int:
        return 1 if self.quick else full

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}    {text}", file=sys.stderr, flush=True)


def median(values: list[float]) -> float:
    """The middle one, or the lower of the two in the middle: a value that was measured."""
    return sorted(values)[(len(values) - 1) // 2]
