"""Flushes go where the expected wait is short, without all gateways going to the same partition."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from smartbatch.gateway.queue.choice import choose


class Candidate:
    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s

    def expected_wait_s(self) -> float:
        return self.wait_s


@pytest.fixture(autouse=True)
def seed() -> None:
    random.seed(1)


def chosen(candidates: list[Candidate], times: int = 3000) -> Counter[int]:
    return Counter(candidates.index(choose(candidates)) for _ in range(times))


def test_the_only_one_is_chosen() -> None:
    assert chosen([Candidate(5.0)], 1) == {0: 1}


def test_of_two_the_shorter_wait_wins() -> None:
    assert chosen([Candidate(0.2), Candidate(0.1)], 10) == {1: 10}


def test_of_many_the_shortest_gets_its_share_and_not_all() -> None:
    found = chosen([Candidate(n / 10) for n in range(10)])
    assert found[9] == 0  # the longest loses against every other
    assert 500 < found[0] < 700  # a fifth: it is one of two drawn
