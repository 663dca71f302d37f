"""When requests arrive at one gateway. All times are virtual seconds."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from typing import Protocol

NEVER = float("inf")


class Arrivals(Protocol):
    """One gateway's. `next_at` is when the next arrives, or NEVER."""

    next_at: float

    def take(self) -> float:
        """Return `next_at`, and go on to the one after it."""
        ...

    def answered(self, at: float) -> None:
        """A client has read its response by then: in a closed loop it asks again."""
        ...


class Open:
    """ArrivalPredictor that wait for nobody, until a time."""

    def __init__(self, times: Iterator[float], until: float) -> None:
        self._times = times
        self._until = until
        self.next_at = 0.0
        self.take()

    def take(self) -> float:
        taken, after = self.next_at, next(self._times)
        self.next_at = after if after < self._until else NEVER
        return taken

    def answered(self, at: float) -> None:
        pass


def poisson(rate: float, draw: random.Random) -> Iterator[float]:
    now, expovariate = 0.0, draw.expovariate
    while True:
        now += expovariate(rate)
        yield now


def bursty(rate: float, draw: random.Random, *, factor: float = 4.0, share: float = 0.1, burst_s: float = 0.1):
    """Poisson at two rates in turn (MMPP-2): `factor` times the mean rate during bursts, which take that `share` of the
    time and last `burst_s` in the mean. The mean over all time is `rate`."""
    if not 0 < share < 1 or not 1 <= factor <= 1 / share:
        raise ValueError("bursts can't hold more than all arrivals: factor × share must be at most 1")
    rates = (rate * (1 - factor * share) / (1 - share), rate * factor)
    spells = (burst_s * (1 - share) / share, burst_s)
    now, state = 0.0, int(draw.random() < share)
    ends_at = draw.expovariate(1 / spells[state])
    while True:
        step = draw.expovariate(rates[state]) if rates[state] else NEVER
        if now + step < ends_at:
            now += step
            yield now
        else:  # an exponential forgets, so the rest of it may be drawn anew at the other rate
            now, state = ends_at, 1 - state
            ends_at = now + draw.expovariate(1 / spells[state])


class Closed:
    """Clients that ask again once they are answered, after `think_s` (exponential)."""

    def __init__(self, clients: int, draw: random.Random, *, until: float, think_s: float = 0.0) -> None:
        self._draw = draw
        self._until = until
        self._think_s = think_s
        self._due = [n * 1e-6 for n in range(clients)]
        self.next_at = self._due[0] if clients else NEVER

    def take(self) -> float:
        taken = heapq.heappop(self._due)
        self._look()
        return taken

    def answered(self, at: float) -> None:
        think_s = self._draw.expovariate(1 / self._think_s) if self._think_s else 0.0
        heapq.heappush(self._due, at + think_s)
        self._look()

    def _look(self) -> None:
        self.next_at = self._due[0] if self._due and self._due[0] < self._until else NEVER
