"""Which partition a flush goes to: of two drawn at random, the one with the shorter expected wait. Pure.

What a gateway knows of a partition is some milliseconds old. If all chose the shortest queue, they would all choose the
same one; of two random ones each finds another (the power of two choices: Mitzenmacher, 2001).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    @property
    def has_workers(self) -> bool: ...
    def expected_wait_s(self) -> float: ...


C = TypeVar("C", bound=Candidate)


def choose(candidates: Sequence[C]) -> C:
    """Return one of at least one candidate. One without workers is chosen only if none has any."""
    if len(candidates) > 2:
        candidates = random.sample(candidates, 2)
    if len(candidates) == 1:
        return candidates[0]
    first, second = candidates
    if first.has_workers is not second.has_workers:
        return first if first.has_workers else second
    return first if first.expected_wait_s() <= second.expected_wait_s() else second
