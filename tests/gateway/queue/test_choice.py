"""Flushes go where this gateway waits for the least, by the workers' rate, and evenly where it waits for as much."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from smartbatch.gateway.queue.choice import FAVOURITES, choose, favourites


class Candidate:
    def __init__(self, unanswered_rows: int = 0, rows_per_s: float = 100.0) -> None:
        self.unanswered_rows = unanswered_rows
        self.rows_per_s = rows_per_s
        self.favourite = True


@pytest.fixture(autouse=True)
def seed() -> None:
    random.seed(1)


def chosen(candidates: list[Candidate], times: int = 3000) -> Counter[int]:
    return Counter(candidates.index(choose(candidates)) for _ in range(times))


def test_the_only_one_is_chosen() -> None:
    assert chosen([Candidate(5)], 1) == {0: 1}


def test_the_one_with_the_fewest_rows_is_chosen_of_all() -> None:
    assert chosen([Candidate(2), Candidate(5), Candidate(1), Candidate(2)], 100) == {2: 100}


def test_equal_ones_get_equal_shares() -> None:
    found = chosen([Candidate(1), Candidate(1), Candidate(1), Candidate(2)])
    assert found.keys() == {0, 1, 2}
    assert min(found.values()) > 900


def test_rows_count_by_the_time_that_the_workers_there_need_for_them() -> None:
    assert chosen([Candidate(3, 100.0), Candidate(5, 200.0)], 100) == {1: 100}
    assert chosen([Candidate(3, 100.0), Candidate(7, 200.0)], 100) == {0: 100}


def test_a_slow_one_is_tried_when_nothing_is_left_there() -> None:
    """Its workers may have seemed slow in their warm-up, and would never be measured again."""
    assert chosen([Candidate(1, 1000.0), Candidate(0, 0.1)], 100) == {1: 100}


def test_one_without_a_known_rate_gets_a_flush_at_a_time() -> None:
    assert chosen([Candidate(50, 1000.0), Candidate(0, 0.0)], 100) == {1: 100}
    assert chosen([Candidate(50, 1000.0), Candidate(1, 0.0)], 100) == {0: 100}


def test_without_any_known_rate_rows_count_alone() -> None:
    assert chosen([Candidate(2, 0.0), Candidate(1, 0.0)], 100) == {1: 100}


def test_favourites_are_used_until_this_gateway_waits_for_them() -> None:
    candidates = [Candidate(0), Candidate(1, 1000.0), Candidate(2, 1000.0)]
    candidates[0].favourite = False
    assert chosen(candidates, 100) == {1: 100}
    candidates[1].unanswered_rows = candidates[2].unanswered_rows = 1000
    assert chosen(candidates, 100) == {0: 100}


def test_favourites_of_all_gateways_are_spread_evenly() -> None:
    partitions = range(20)
    sets = [tuple(favourites(partitions, rank, 120)) for rank in range(120)]
    assert {len(each) for each in sets} == {FAVOURITES}
    assert set(Counter(itertools.chain(*sets)).values()) == {120 * FAVOURITES // 20}
    assert len(set(map(frozenset, sets))) > 110


def test_where_the_number_does_not_divide_every_partition_is_somebodys_favourite() -> None:
    """As while a broker is away."""
    count = Counter(itertools.chain(*(favourites(range(19), rank, 120) for rank in range(120))))
    assert set(count) == set(range(19))
    assert max(count.values()) < 1.5 * min(count.values())


@pytest.mark.parametrize(("partitions", "gateways"), [(1, 100), (7, 100), (20, 39), (20, 0)])
def test_few_partitions_or_gateways_have_no_favourites(partitions: int, gateways: int) -> None:
    assert favourites(range(partitions), 3, gateways) == range(partitions)
