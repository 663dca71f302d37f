"""Which partition a flush goes to: of two drawn at random, the one with the shorter expected wait. Pure.

What a gateway knows of a partition is some milliseconds old. If all chose the shortest queue, they would all choose the
same one; of two random ones each finds another (the power of two choices: Mitzenmacher, 2001). Now and then any of them
gets a flush: one whose workers seemed slow in their warm-up would otherwise never be measured again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

EXPLORED = 1 / 32  # of the flushes


class Candidate(Protocol):
    def expected_wait_s(self) -> float: ...


C = TypeVar("C", bound=Candidate)


def choose(candidates: Sequence[C]) -> C:
    """Return one of at least one candidate."""
    if len(candidates) == 1:
        return candidates[0]
    if random.random() < EXPLORED:
        return random.choice(candidates)
    return min(random.sample(candidates, 2), key=lambda candidate: candidate.expected_wait_s())
