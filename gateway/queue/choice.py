"""Which partition a flush goes to: where this gateway waits for the least, by the rate of the workers there. Pure.

That is known exactly, whatever the other gateways do and however old the last word from the broker is. A partition
that seems slow gets a flush whenever nothing of this gateway's is left there, so it is measured again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    unanswered_rows: int  # of this gateway

    @property
    def rows_per_s(self) -> float: ...


C = TypeVar("C", bound=Candidate)


def choose(candidates: Sequence[C]) -> C:
    """Return one of at least one candidate; of equal ones a random one."""
    if len(candidates) == 1:
        return candidates[0]
    return min(candidates, key=lambda each: (each.unanswered_rows / (each.rows_per_s or 1.0), random.random()))
