"""The rule by which workers take turns on a device, in virtual time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smartbatch.worker.execution.fair_queue import FIELDS, MAX_RETURN_S, PAUSED_S, ROWS, FairQueue


class Device:
    """Workers that share a device, each with batches of one length."""

    def __init__(self, *workers: tuple[float, float]) -> None:
        self.now = 100.0
        self.table = [0.0] * (ROWS * FIELDS)
        self.workers = [FairQueue(self.table, row, row, weight) for row, (_, weight) in enumerate(workers, 1)]
        self.lengths = [length for length, _ in workers]
        self.used = [0.0] * len(workers)
        for row, worker in enumerate(self.workers, 1):
            worker.others = [other for other in range(1, len(workers) + 1) if other != row]

    def run(self, waiting: set[int]) -> int:
        """Give the device to one of the waiting workers for a batch. Returns which."""
        for n in waiting:
            self.workers[n].arrive()
        while not (ready := [n for n in sorted(waiting) if not self.workers[n].ahead(self.now)]):
            self.now += MAX_RETURN_S / 10  # the one that has left does not return
        first = ready[0]
        worker = self.workers[first]
        worker.start(self.now)
        self.now += self.lengths[first]
        self.used[first] += self.lengths[first]
        worker.charge(self.lengths[first])
        worker.batch_done(self.lengths[first], self.now)
        worker.leave(self.now)
        return first


lengths_and_weights = st.lists(
    st.tuples(st.floats(0.001, 2.0), st.sampled_from([1.0, 2.0, 5.0])), min_size=2, max_size=6
)


def test_a_model_with_long_batches_gets_no_more_time_than_one_with_short_ones() -> None:
    device = Device((0.004, 1), (0.4, 1))
    while device.now < 200:
        device.run({0, 1})
    assert abs(device.used[0] - device.used[1]) <= 0.404


def test_a_short_batch_waits_for_one_long_batch_at_most() -> None:
    device = Device((0.004, 1), (0.4, 1))
    for _ in range(10):
        device.run({1})
        assert device.run({0, 1}) == 0


def test_weights_divide_the_time() -> None:
    device = Device((0.010, 3), (0.030, 1))
    while device.now < 200:
        device.run({0, 1})
    assert abs(device.used[0] - 75) < 0.1 and abs(device.used[1] - 25) < 0.1


@given(lengths_and_weights, st.integers(10, 200))
def test_workers_that_always_wait_differ_by_one_batch_of_each_at_most(
    workers: list[tuple[float, float]], batches: int
) -> None:
    device = Device(*workers)
    for _ in range(batches):
        device.run(set(range(len(workers))))
    normalized = [used / weight for used, (_, weight) in zip(device.used, workers, strict=True)]
    most = [length / weight for length, weight in workers]
    for a in range(len(workers)):
        for b in range(a):
            assert abs(normalized[a] - normalized[b]) <= most[a] + most[b] + 1e-6


@given(lengths_and_weights, st.integers(1, 100))
def test_a_pause_earns_no_credit(workers: list[tuple[float, float]], batches: int) -> None:
    device = Device(*workers)
    everyone = set(range(len(workers)))
    for _ in range(batches):
        device.run(everyone - {0})
    before, most = list(device.used), [length / weight for length, weight in workers]
    for _ in range(batches):
        device.run(everyone)
    gained = [
        (used - earlier) / weight for used, earlier, (_, weight) in zip(device.used, before, workers, strict=True)
    ]
    assert gained[0] <= min(gained[1:]) + most[0] + 2 * max(most) + 1e-6


@given(lengths_and_weights, st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=60))
def test_somebody_always_goes_first(workers: list[tuple[float, float]], rounds: list[set[int]]) -> None:
    device, waiting = Device(*workers), set[int]()
    for arrived in rounds:
        waiting |= {n for n in arrived if n < len(workers)}
        if waiting:
            before = device.now
            first = device.run(waiting)
            assert device.now - before <= device.lengths[first] + 2 * MAX_RETURN_S
            waiting.remove(first)


def test_a_longer_batch_leaves_a_moment_for_the_worker_that_has_just_left() -> None:
    device = Device((0.004, 1), (0.4, 1))
    device.run({0, 1})
    device.run({1})
    device.run({0, 1})
    long = device.workers[1]
    assert long.ahead(device.now + 0.019) == [1]
    assert not long.ahead(device.now + 0.021)


def test_a_short_batch_does_not_wait_for_who_has_left() -> None:
    device = Device((0.4, 1), (0.004, 1))
    device.run({1})
    device.run({0})
    assert not device.workers[1].ahead(device.now + 0.001)


def test_a_turn_goes_on_until_another_worker_has_used_less() -> None:
    device = Device((0.004, 1), (0.4, 1))
    device.run({0, 1})
    device.run({1})
    short, long = device.workers
    short.arrive()
    short.start(device.now)
    long.arrive()
    for _ in range(98):
        short.charge(0.004)
        assert not short.must_yield()
    short.charge(0.01)
    assert short.must_yield()


def test_a_worker_that_does_not_take_its_turn_is_passed_over_until_it_says_so() -> None:
    device = Device((0.4, 1), (0.4, 1))
    paused, other = device.workers
    device.run({1})
    paused.arrive()
    other.arrive()
    device.now += 1
    assert other.ahead(device.now) == [1]
    other.pass_over([1])
    assert not other.ahead(device.now)
    paused.keep_waiting()
    assert other.ahead(device.now) == [1]


def test_a_turn_without_progress_is_one_of_a_paused_process_after_a_while() -> None:
    device = Device((0.1, 1), (0.1, 1))
    holder, other = device.workers
    device.run({0})
    holder.arrive()
    holder.start(device.now)
    other.arrive()
    started = device.now
    assert not other.holder_paused(started + PAUSED_S + 0.39, started)
    assert other.holder_paused(started + PAUSED_S + 0.41, started)
    assert not other.holder_paused(started + 100, started + 99)
    holder.batch_done(0.1, started + 2)
    assert not other.holder_paused(started + 4, started)


def test_a_pause_during_a_turn_is_not_charged() -> None:
    device = Device((0.1, 1), (0.1, 1))
    device.run({0})
    device.workers[0].charge(3600)
    assert device.workers[0]._table[FIELDS + 1] <= 0.1 + PAUSED_S + 0.4 + 1e-9


def test_what_is_left_for_a_worker_is_what_others_do_not_use_and_at_least_its_share() -> None:
    device = Device((0.1, 1), (0.1, 1), (0.1, 2))
    first, second, third = device.workers
    assert first.available(device.now) == 1.0
    for _ in range(60):
        device.now += 1
        second.charge(0.3)
        available = first.available(device.now)
    assert 0.69 < available < 0.72
    for _ in range(60):
        device.now += 1
        second.charge(0.4)
        third.charge(0.6)
        available = first.available(device.now)
    assert available == 0.25
