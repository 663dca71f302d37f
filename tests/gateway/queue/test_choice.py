"""Flushes go where the expected wait is short, without all gateways going to the same partition."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from smartbatch.gateway.queue import choice
from smartbatch.gateway.queue.choice import choose


class Candidate:
    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s

    def expected_wait_s(self) -> float:
        return self.wait_s


@pytest.fixture(autouse=True)
def seed(monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(1)
    monkeypatch.setattr(choice, "EXPLORED", 0.0)


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


def test_one_that_seems_slow_is_tried_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "EXPLORED", 1 / 32)
    found = chosen([Candidate(0.1), Candidate(0.1), Candidate(9.0)], 3200)
    assert 15 < found[2] < 55  # a third of every 32nd
