"""Which version gets a request that names none: by the weights of the routing table, among those that can serve it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from smartbatch.shared.errors import Unavailable
from smartbatch.shared.routing import RoutingTable

# From one request to the next, modulo 1: in any sequence of requests each version gets its share, within a few requests
# (the golden ratio is the number that fractions approximate worst).
STEP = (5**0.5 - 1) / 2


class Queue(Protocol):
    def check(self, timeout_ms: int) -> None:
        """Raise Unavailable if a request with this timeout would be rejected."""
        ...


Q = TypeVar("Q", bound=Queue)
Shares = Sequence[tuple[float, Q]]


class Route(Generic[Q]):
    """One model's, in one gateway process. The router updates it after each read of the system's state."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.table = RoutingTable()
        self.shares: Shares[Q] = ()
        self._position = random.random()

    def choose(self, headers: Iterable[tuple[bytes, bytes]], timeout_ms: int) -> Q:
        """Return the queue of a version that accepts a request now. Raises the last rejection if none does."""
        shares = self.shares
        if len(shares) == 1:
            queue = shares[0][1]
            queue.check(timeout_ms)
            return queue
        position = self._sticky_position(headers)
        while True:
            queue = pick(shares, self._next_position() if position is None else position)
            try:
                queue.check(timeout_ms)
                return queue
            except Unavailable:
                shares = [each for each in shares if each[1] is not queue]
                if not shares:
                    raise

    def another(self, queue: Q) -> Q | None:
        """Return the queue of another version that gets requests, if there is one."""
        others = [each for each in self.shares if each[1] is not queue]
        return pick(others, self._next_position()) if others else None

    def _next_position(self) -> float:
        self._position = (self._position + STEP) % 1.0
        return self._position

    def _sticky_position(self, headers: Iterable[tuple[bytes, bytes]]) -> float | None:
        """Return a number from 0 to 1 that depends on nothing but the value of the table's header; None without it."""
        if not self.table.sticky:
            return None
        wanted = self.table.sticky.lower().encode()
        value = next((value for name, value in headers if name == wanted), None)
        if value is None:
            return None
        return int.from_bytes(hashlib.blake2b(value, digest_size=6).digest(), "big") / 2**48


def pick(shares: Shares[Q], position: float) -> Q:
    """Return the queue at a position from 0 to 1, where each takes as much as its share."""
    left = position * sum(share for share, _ in shares)
    for share, queue in shares:
        left -= share
        if left < 0:
            return queue
    return shares[-1][1]
