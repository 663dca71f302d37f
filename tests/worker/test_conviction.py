"""Suspected by the clock, convicted by observation."""

from __future__ import annotations

from shared.broker.claims import Convict
from worker.conviction import Convictions

DEAD = {"w2": b"1000"}


def observe(beats: list[tuple[float, dict[str, bytes] | None]]) -> Convictions:
    """Beats of (when, lapsed leases), None for a beat that failed."""
    convictions = Convictions()
    for now, lapsed in beats:
        if lapsed is None:
            convictions.beat_failed()
        else:
            convictions.beat_succeeded(lapsed, now)
    return convictions


def test_the_same_lapsed_score_for_a_second_convicts() -> None:
    assert observe([(0.0, DEAD), (0.5, DEAD), (1.0, DEAD)]).convicts == [Convict("w2", b"1000")]


def test_a_lapsed_lease_alone_convicts_nobody() -> None:
    assert observe([(0.0, DEAD), (0.5, DEAD), (0.9, DEAD)]).convicts == []


def test_a_worker_that_beats_again_is_no_suspect_any_more() -> None:
    assert observe([(0.0, DEAD), (0.5, {"w2": b"2000"}), (1.0, {"w2": b"2000"})]).convicts == []


def test_a_pause_of_redis_convicts_nobody() -> None:
    assert observe([(0.0, DEAD), (0.5, None), (0.9, DEAD), (1.4, DEAD)]).convicts == []


def test_a_pause_of_myself_convicts_nobody() -> None:
    assert observe([(0.0, DEAD), (10.0, DEAD), (10.5, DEAD)]).convicts == []


def test_a_convict_that_came_back_is_let_go() -> None:
    assert observe([(0.0, DEAD), (0.5, DEAD), (1.0, DEAD), (1.5, {})]).convicts == []


def test_a_conviction_is_told_once() -> None:
    convictions = observe([(0.0, DEAD), (0.5, DEAD)])
    assert convictions.beat_succeeded(DEAD, 1.0) == [Convict("w2", b"1000")]
    assert convictions.beat_succeeded(DEAD, 1.5) == []
