"""Which partition a flush goes to: of two drawn at random, the one with the shorter expected wait. Pure.

What a gateway knows of a partition is some milliseconds old. If all chose the shortest queue, they would all choose the
same one; of two random ones each finds another (the power of two choices: Mitzenmacher, 2001). Now and then an empty
one gets a flush: if its workers seemed slow in their warm-up, they would otherwise never be measured again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

EXPLORED = 1 / 32  # of the flushes


class Candidate(Protocol):
    @property
    def empty(self) -> bool: ...

    def expected_wait_s(self) -> float: ...


C = TypeVar("C", bound=Candidate)


def choose(candidates: Sequence[C]) -> C:
    """Return one of at least one candidate."""
    if len(candidates) == 1:
        return candidates[0]
    if random.random() < EXPLORED and (empty := [candidate for candidate in candidates if candidate.empty]):
        return random.choice(empty)
    return min(random.sample(candidates, 2), key=lambda candidate: candidate.expected_wait_s())
