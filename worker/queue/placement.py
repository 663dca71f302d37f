"""Which partition a worker claims from: its home, another one while its home's broker is away, or one that needs help.
Pure.

Workers decide for themselves, each from what it read of all partitions. Homes are spread by their number of workers:
gateways send each partition as much as its workers can do, so the speeds of the workers need not be equal.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import msgspec

BALANCE_S = 3.0  # how long homes must be uneven before a worker changes its own


class Load(msgspec.Struct, frozen=True):
    """What a worker read of one partition."""

    reachable: bool
    workers: tuple[str, ...] = ()  # IDs of those with a lease
    waiting: int = 0  # entries


AWAY = Load(False)


class Placement:
    """One worker's place. Times are monotonic."""

    def __init__(self, worker_id: str, leave_after_s: float) -> None:
        self._worker_id = worker_id
        self._leave_after_s = leave_after_s
        self.home = -1  # until it is chosen
        self._away_since: float | None = None  # the home's broker
        self._uneven_since: float | None = None

    def place(self, loads: Mapping[int, Load], now: float, *, current: int, idle: bool, batch_rows: int) -> int:
        """Return the partition to claim from, and choose another home if that is necessary.

        `current` is the partition that the worker claims from, `idle` whether it holds no entry, and `batch_rows` what
        makes a batch worth helping out for.
        """
        if self.home not in loads:  # the first time, or partitions were rearranged
            self.home = fewest_workers(loads)
        self._rebalance(loads, now)
        home = loads[self.home]
        if not home.reachable:
            self._away_since = now if self._away_since is None else self._away_since
            if loads.get(current, AWAY).reachable:  # it has left its home already
                return current
            return _needs_most(loads, current) if now - self._away_since >= self._leave_after_s else self.home
        self._away_since = None
        busiest = max(loads, key=lambda number: loads[number].waiting)
        helps = loads[busiest].waiting >= batch_rows and not home.waiting
        return busiest if helps and (idle or busiest == current) else self.home

    def _rebalance(self, loads: Mapping[int, Load], now: float) -> None:
        """Change the home if it has at least two workers more than another one for some seconds. One worker at a time
        does so: the last of them by ID. While workers help out, their leases do not say where they are at home, and
        nobody changes its home."""
        fewest, workers = fewest_workers(loads), loads[self.home].workers
        leases = [worker for load in loads.values() for worker in load.workers]
        helping = len(leases) > len(set(leases))
        if helping or len(workers) - len(loads[fewest].workers) < 2:
            self._uneven_since = None
        elif self._uneven_since is None:
            self._uneven_since = now
        elif now - self._uneven_since >= BALANCE_S and self._worker_id == max(workers):
            self.home, self._uneven_since = fewest, None


def fewest_workers(loads: Mapping[int, Load]) -> int:
    """Return a partition with the fewest workers, of those that can be reached if any can."""
    numbers = [number for number in loads if loads[number].reachable] or list(loads)
    least = min(len(loads[number].workers) for number in numbers)
    return random.choice([number for number in numbers if len(loads[number].workers) == least])


def _needs_most(loads: Mapping[int, Load], current: int) -> int:
    """Return the partition with the most entries per worker, or the current one if none can be reached."""
    reachable = [number for number in loads if loads[number].reachable]
    random.shuffle(reachable)
    return max(reachable, default=current, key=lambda n: (loads[n].waiting + 1) / (len(loads[n].workers) + 1))
