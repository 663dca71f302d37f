"""Arrival times of requests at one gateway, in virtual seconds."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator
from typing import Protocol

NEVER = float("inf")


class Arrivals(Protocol):
    """The arrivals at one gateway. `next_at` is the time of the next one, or NEVER."""

    next_at: float

    def pop(self) -> float:
        """Return `next_at` and advance to the following arrival."""
        ...

    def responded(self, at: float) -> None:
        """Record that a client has read its response at `at`. In a closed loop it sends again."""
        ...


class Open:
    """Independent arrivals, up to a time."""

    def __init__(self, times: Iterator[float], until: float) -> None:
        self._times = times
        self._until = until
        self.next_at = 0.0
        self.pop()

    def pop(self) -> float:
        arrival, following = self.next_at, next(self._times, NEVER)
        self.next_at = following if following < self._until else NEVER
        return arrival

    def responded(self, at: float) -> None:
        pass


def poisson(rate: float, draw: random.Random) -> Iterator[float]:
    now, expovariate = 0.0, draw.expovariate
    while True:
        now += expovariate(rate)
        yield now


def bursty(rate: float, draw: random.Random, *, factor: float = 4.0, share: float = 0.1, burst_s: float = 0.1):
    """Poisson arrivals at two alternating rates (MMPP-2), `rate` on average.

    During bursts the rate is `factor` times the mean. Bursts fill `share` of the time and last `burst_s` on average.
    """
    if not 0 < share < 1 or not 1 <= factor <= 1 / share:
        raise ValueError("bursts cannot hold more than all arrivals: factor × share must be at most 1")
    rates = (rate * (1 - factor * share) / (1 - share), rate * factor)
    durations = (burst_s * (1 - share) / share, burst_s)
    now, state = 0.0, int(draw.random() < share)
    ends_at = draw.expovariate(1 / durations[state])
    while True:
        step = draw.expovariate(rates[state]) if rates[state] else NEVER
        if now + step < ends_at:
            now += step
            yield now
        else:  # the exponential distribution is memoryless, so draw again at the other rate
            now, state = ends_at, 1 - state
            ends_at = now + draw.expovariate(1 / durations[state])


def changed(times: Iterator[float], at: float, after: Iterator[float]) -> Iterator[float]:
    """Yield `times` until `at`, and from then on those of `after`, which begin at 0."""
    yield from itertools.takewhile(lambda each: each < at, times)
    yield from (at + each for each in after)


class Closed:
    """Clients that send again `think_s` (exponentially distributed) after their response."""

    def __init__(self, clients: int, draw: random.Random, *, until: float, think_s: float = 0.0) -> None:
        self._draw = draw
        self._until = until
        self._think_s = think_s
        self._due = [n * 1e-6 for n in range(clients)]
        self.next_at = self._due[0] if clients else NEVER

    def pop(self) -> float:
        arrival = heapq.heappop(self._due)
        self._update()
        return arrival

    def responded(self, at: float) -> None:
        think_s = self._draw.expovariate(1 / self._think_s) if self._think_s else 0.0
        heapq.heappush(self._due, at + think_s)
        self._update()

    def _update(self) -> None:
        self.next_at = self._due[0] if self._due and self._due[0] < self._until else NEVER
