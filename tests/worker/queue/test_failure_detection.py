"""Dead workers: suspected by an expired lease, confirmed by observation."""

from __future__ import annotations

from smartbatch.shared.broker.queue.claims import DeadWorker
from smartbatch.worker.queue.failure_detection import FailureDetector

DEAD = {"w2": b"1000"}


def observe(beats: list[tuple[float, dict[str, bytes] | None]]) -> FailureDetector:
    """Feed heartbeats of (time, expired leases), None for one that failed."""
    failure_detector = FailureDetector()
    for now, expired in beats:
        if expired is None:
            failure_detector.heartbeat_failed()
        else:
            failure_detector.heartbeat_succeeded(expired, now)
    return failure_detector


def test_a_lease_expired_for_a_second_means_a_dead_worker() -> None:
    assert observe([(0.0, DEAD), (0.5, DEAD), (1.0, DEAD)]).dead_workers == [DeadWorker("w2", b"1000")]


def test_an_expired_lease_alone_proves_nothing() -> None:
    assert observe([(0.0, DEAD), (0.5, DEAD), (0.9, DEAD)]).dead_workers == []


def test_a_renewed_lease_ends_the_suspicion() -> None:
    assert observe([(0.0, DEAD), (0.5, {"w2": b"2000"}), (1.0, {"w2": b"2000"})]).dead_workers == []


def test_a_pause_of_redis_proves_nothing() -> None:
    assert observe([(0.0, DEAD), (0.5, None), (0.9, DEAD), (1.4, DEAD)]).dead_workers == []


def test_a_pause_of_the_observer_proves_nothing() -> None:
    assert observe([(0.0, DEAD), (10.0, DEAD), (10.5, DEAD)]).dead_workers == []


def test_a_worker_that_returns_is_not_dead_any_more() -> None:
    assert observe([(0.0, DEAD), (0.5, DEAD), (1.0, DEAD), (1.5, {})]).dead_workers == []


def test_a_dead_worker_is_reported_once() -> None:
    failure_detector = observe([(0.0, DEAD), (0.5, DEAD)])
    assert failure_detector.heartbeat_succeeded(DEAD, 1.0) == [DeadWorker("w2", b"1000")]
    assert failure_detector.heartbeat_succeeded(DEAD, 1.5) == []
