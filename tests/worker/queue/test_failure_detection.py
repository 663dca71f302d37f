"""Suspected by the clock, convicted by observation."""

from __future__ import annotations

from smartbatch.shared.broker.queue.claims import DeadWorker
from smartbatch.worker.queue.failure_detection import FailureDetector

DEAD = {"w2": b"1000"}


def observe(beats: list[tuple[float, dict[str, bytes] | None]]) -> FailureDetector:
    """Beats of (when, lapsed leases), None for a beat that failed."""
    failure_detector = FailureDetector()
    for now, lapsed in beats:
        if lapsed is None:
            failure_detector.heartbeat_failed()
        else:
            failure_detector.heartbeat_succeeded(lapsed, now)
    return failure_detector


def test_the_same_lapsed_score_for_a_second_convicts() -> None:
    assert observe([(0.0, DEAD), (0.5, DEAD), (1.0, DEAD)]).dead_workers == [DeadWorker("w2", b"1000")]


def test_a_lapsed_lease_alone_convicts_nobody() -> None:
    assert observe([(0.0, DEAD), (0.5, DEAD), (0.9, DEAD)]).dead_workers == []


def test_a_worker_that_beats_again_is_no_suspect_any_more() -> None:
    assert observe([(0.0, DEAD), (0.5, {"w2": b"2000"}), (1.0, {"w2": b"2000"})]).dead_workers == []


def test_a_pause_of_redis_convicts_nobody() -> None:
    assert observe([(0.0, DEAD), (0.5, None), (0.9, DEAD), (1.4, DEAD)]).dead_workers == []


def test_a_pause_of_myself_convicts_nobody() -> None:
    assert observe([(0.0, DEAD), (10.0, DEAD), (10.5, DEAD)]).dead_workers == []


def test_a_convict_that_came_back_is_let_go() -> None:
    assert observe([(0.0, DEAD), (0.5, DEAD), (1.0, DEAD), (1.5, {})]).dead_workers == []


def test_a_conviction_is_told_once() -> None:
    failure_detector = observe([(0.0, DEAD), (0.5, DEAD)])
    assert failure_detector.heartbeat_succeeded(DEAD, 1.0) == [DeadWorker("w2", b"1000")]
    assert failure_detector.heartbeat_succeeded(DEAD, 1.5) == []
