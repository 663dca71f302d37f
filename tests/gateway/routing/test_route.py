from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.gateway.routing.route import Route, pick
from smartbatch.shared.errors import QueueFull
from smartbatch.shared.routing import RoutingTable


class Queue:
    def __init__(self, version: int) -> None:
        self.version = version
        self.full = False
        self.checked = 0

    def check(self, timeout_ms: int) -> None:
        self.checked += 1
        if self.full:
            raise QueueFull(f"version {self.version} is full")


def route(shares: dict[int, float], sticky: str = "") -> tuple[Route[Queue], dict[int, Queue]]:
    queues = {version: Queue(version) for version in shares}
    made: Route[Queue] = Route("m")
    made.table = RoutingTable(weights=shares, sticky=sticky)
    made.shares = [(share, queues[version]) for version, share in shares.items()]
    return made, queues


def chosen(made: Route[Queue], requests: int, headers: list[tuple[bytes, bytes]] | None = None) -> Counter[int]:
    return Counter(made.choose(headers or [], 1000).version for _ in range(requests))


@pytest.mark.parametrize("canary", [0.01, 0.1, 0.5, 0.99])
def test_each_version_gets_its_share_within_a_few_requests(canary):
    for _ in range(20):
        made, _ = route({1: 1 - canary, 2: canary})
        assert chosen(made, 200)[2] == pytest.approx(200 * canary, abs=3)


def test_a_version_that_rejects_passes_its_requests_to_the_others_by_their_weights():
    made, queues = route({1: 0.6, 2: 0.3, 3: 0.1})
    queues[1].full = True
    counts = chosen(made, 400)
    assert counts[1] == 0
    assert counts[2] == pytest.approx(300, abs=40)  # their versions are drawn at random


def test_if_all_versions_reject_the_rejection_reaches_the_client():
    made, queues = route({1: 0.5, 2: 0.5})
    for queue in queues.values():
        queue.full = True
    with pytest.raises(QueueFull):
        made.choose([], 1000)
    assert [queue.checked for queue in queues.values()] == [1, 1]


def test_a_single_version_is_checked_once():
    made, queues = route({2: 1.0})
    assert made.choose([], 1000) is queues[2]
    assert queues[2].checked == 1


def users(made: Route[Queue]) -> dict[int, int]:
    return {user: made.choose([(b"x-user", b"%d" % user)], 1000).version for user in range(2000)}


def test_the_same_value_of_the_sticky_header_goes_to_the_same_version_in_every_gateway():
    one, two = (route({1: 0.9, 2: 0.1}, sticky="X-User")[0] for _ in range(2))
    assert users(one) == users(two)
    assert sum(version == 2 for version in users(one).values()) == pytest.approx(200, abs=50)


def test_users_of_a_canary_stay_there_when_its_weight_grows():
    before, after = (users(route({1: 1 - w, 2: w}, sticky="X-User")[0]) for w in (0.1, 0.3))
    assert {user for user, version in before.items() if version == 2} <= {
        user for user, version in after.items() if version == 2
    }


def test_requests_without_the_sticky_header_are_spread_by_weight():
    made, _ = route({1: 0.75, 2: 0.25}, sticky="X-User")
    assert chosen(made, 200, [(b"x-other", b"1")])[2] == pytest.approx(50, abs=3)


def test_another_version_is_never_the_same():
    made, queues = route({1: 0.999, 2: 0.001})
    assert all(made.another(queues[1]) is queues[2] for _ in range(50))
    alone, queues = route({1: 1.0})
    assert alone.another(queues[1]) is None


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=8), st.floats(0, 1))
def test_every_position_has_a_queue(weights, position):
    shares = [(weight, Queue(n)) for n, weight in enumerate(weights)]
    assert pick(shares, position) in [queue for _, queue in shares]
