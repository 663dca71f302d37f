"""Where a worker claims from: at home, elsewhere while its home is away, and where help is needed."""

from __future__ import annotations

from collections import Counter

from smartbatch.worker.queue.placement import AWAY, BALANCE_S, Load, Placement, fewest_workers

FULL = 32


class Worker:
    """A worker's placement, with a clock that the test moves."""

    def __init__(self, name: str, home: int = 0) -> None:
        self.placement = Placement(name, leave_after_s=1.0)
        self.placement.home = home
        self.current = home
        self.now = 100.0

    def step(self, loads: dict[int, Load], seconds: float = 0.5, *, idle: bool = True) -> int:
        self.now += seconds
        self.current = self.placement.place(loads, self.now, current=self.current, idle=idle, batch_rows=FULL)
        return self.current


def load(*workers: str, waiting: int = 0) -> Load:
    return Load(True, workers, waiting)


def test_the_first_home_is_where_the_fewest_workers_are() -> None:
    worker = Worker("w", home=-1)
    assert worker.step({0: load("a"), 1: load(), 2: AWAY}) == 1
    assert Counter(fewest_workers({0: load(), 1: load()}) for _ in range(100)).keys() == {0, 1}  # any of equal ones


def test_a_worker_stays_at_home_while_it_is_useful_there() -> None:
    worker = Worker("a")
    assert worker.step({0: load("a"), 1: load("b", waiting=FULL - 1)}) == 0  # the rest is its own worker's batch
    assert worker.step({0: load("a", waiting=1), 1: load("b", waiting=1000)}) == 0
    assert worker.step({0: load("a"), 1: load("b", waiting=1000)}, idle=False) == 0


def test_an_idle_worker_helps_where_a_full_batch_waits_and_comes_back() -> None:
    worker = Worker("a")
    assert worker.step({0: load("a"), 1: load("b", waiting=FULL), 2: load("c", waiting=90)}) == 2
    busy = {0: load("a"), 1: load("b"), 2: load("a", "c", waiting=60)}
    assert worker.step(busy, idle=False) == 2  # more waits there
    assert worker.step({0: load("a", waiting=1), 1: load("b"), 2: load("a", "c", waiting=60)}, idle=False) == 0


def test_a_worker_leaves_a_home_that_is_away_and_returns_when_it_is_back() -> None:
    worker = Worker("a")
    away = {0: AWAY, 1: load("b", waiting=10), 2: load("c", waiting=50)}
    assert worker.step(away) == 0
    assert worker.step(away) == 0  # for a second
    assert worker.step(away) == 2
    assert worker.step({**away, 1: load("b", waiting=500)}) == 2  # it does not jump around
    assert worker.step({**away, 2: AWAY}) == 1
    assert worker.step({0: load("a"), 1: load("b"), 2: load("c")}) == 0


def test_a_helper_does_not_go_home_to_a_broker_that_is_away() -> None:
    worker = Worker("a")
    assert worker.step({0: load("a"), 1: load("b", waiting=FULL)}) == 1
    assert worker.step({0: AWAY, 1: load("a", "b", waiting=FULL)}) == 1
    assert worker.step({0: AWAY, 1: load("a", "b")}) == 1


def test_nothing_can_be_done_while_all_are_away() -> None:
    worker = Worker("a")
    for _ in range(5):
        assert worker.step({0: AWAY, 1: AWAY}) == 0


def test_uneven_homes_are_evened_out_by_one_worker_after_the_other() -> None:
    homes = dict.fromkeys("abcdef", 0)
    workers = {name: Worker(name) for name in homes}
    moves = 0
    for _ in range(60):
        loads = {n: load(*sorted(name for name, home in homes.items() if home == n)) for n in range(3)}
        for worker in workers.values():
            worker.step(loads)
        moved = [name for name, worker in workers.items() if worker.placement.home != homes[name]]
        assert len(moved) <= 1
        moves += len(moved)
        homes = {name: worker.placement.home for name, worker in workers.items()}
    assert Counter(homes.values()) == {0: 2, 1: 2, 2: 2}
    assert moves == 4


def test_a_short_imbalance_moves_nobody() -> None:
    worker = Worker("z")
    uneven, even = {0: load("y", "z"), 1: load()}, {0: load("y", "z"), 1: load("x")}
    for _ in range(20):
        worker.step(uneven, BALANCE_S - 1)
        worker.step(even)
    assert worker.placement.home == 0


def test_helpers_leave_the_homes_of_others_as_they_are() -> None:
    worker = Worker("z")
    helped = {0: load("a", "b", "z", waiting=FULL), 1: load("a"), 2: load("b")}
    for _ in range(20):
        worker.step(helped)
    assert worker.placement.home == 0


def test_a_home_that_is_no_partition_any_more_is_replaced() -> None:
    worker = Worker("a", home=7)
    assert worker.step({0: load("b"), 2: load()}) == 2
