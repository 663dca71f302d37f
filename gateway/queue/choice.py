"""Which partition a flush goes to: where this gateway waits for the least, by the rate of the workers there. Pure.

That is known exactly, whatever the other gateways do and however old the last word from the broker is. A partition
that seems slow gets a flush whenever nothing of this gateway's is left there, so it is measured again.

Where many gateways share many partitions each has a few favourites, and uses the others only if it has to wait for
these. It then has more requests in each, which is a better measure, and flushes and pops of replies are larger.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

FAVOURITES = 4
LEAST_GATEWAYS = 8  # of each partition: that many even out what each of them sends
LONG_WAIT_S = 0.005  # that a gateway waits for its own requests in a favourite, before it uses the other partitions


class Candidate(Protocol):
    unanswered_rows: int  # of this gateway
    favourite: bool

    @property
    def rows_per_s(self) -> float: ...


C = TypeVar("C", bound=Candidate)
T = TypeVar("T")


def choose(candidates: Sequence[C]) -> C:
    """Return one of at least one candidate; of equal ones a random one."""
    if len(candidates) == 1:
        return candidates[0]
    preferred = [each for each in candidates if each.favourite]
    if preferred and _wait_s(best := _shortest(preferred)) <= LONG_WAIT_S:
        return best
    return _shortest(candidates)


def _shortest(candidates: Sequence[C]) -> C:
    return min(candidates, key=lambda each: (_wait_s(each), random.random()))


def _wait_s(candidate: Candidate) -> float:
    return candidate.unanswered_rows / (candidate.rows_per_s or 1.0)


def favourites(partitions: Sequence[T], rank: int, gateways: int) -> Sequence[T]:
    """Return the favourites of one gateway, or all partitions if there are too few of these or of gateways.

    `rank`: its number among the gateways, from 0. Gateways with successive ranks divide the partitions among them, in
    an order that is new each time, so each partition has about as many gateways and no two the same ones.
    """
    groups = len(partitions) // FAVOURITES
    if groups < 2 or gateways * FAVOURITES < LEAST_GATEWAYS * len(partitions):
        return partitions
    shuffled = random.Random(rank // groups).sample(partitions, len(partitions))
    first = rank % groups * FAVOURITES
    return shuffled[first : first + FAVOURITES]
