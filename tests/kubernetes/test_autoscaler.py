"""The test's own autoscaler follows the documented rules of KEDA and of the HorizontalPodAutoscaler."""

from __future__ import annotations

from tests.kubernetes.autoscaler import Autoscaler, scaled_object


def autoscaler(**values) -> Autoscaler:
    return Autoscaler(scaled_object("m", **{"trigger": "redis", "streamLength": 10, "maxReplicas": 8, **values}))


def test_the_first_replica_stays_for_the_cooldown_without_any_load() -> None:
    scaler = autoscaler(cooldownSeconds=100)
    assert [scaler.step([0], now) for now in (0, 50, 99, 100)] == [1, 1, 1, 0]


def test_one_entry_starts_a_replica_and_the_last_one_ends_after_the_cooldown() -> None:
    scaler = autoscaler(cooldownSeconds=100)
    scaler.replicas = 0
    assert [scaler.step([value], now) for value, now in ((0, 0), (1, 5), (0, 10), (0, 104), (0, 105))] == [
        0,
        1,
        1,
        1,
        0,
    ]


def test_replicas_follow_value_by_threshold_up_to_the_maximum() -> None:
    scaler = autoscaler()
    scaler.replicas = 2
    assert [scaler.desired([value]) for value in (1, 18, 21, 23, 41, 1000)] == [1, 2, 2, 3, 5, 8]  # 10 % are tolerated


def test_replicas_end_only_after_the_window() -> None:
    scaler = autoscaler(scaleDownSeconds=60)
    steps = [(75, 0), (5, 15), (5, 30), (5, 60), (5, 74), (5, 90)]
    assert [scaler.step([value], now) for value, now in steps] == [5, 5, 5, 5, 5, 1]  # by four at once at most


def test_a_trigger_that_cannot_be_read_ends_nothing() -> None:
    scaler = autoscaler(cooldownSeconds=10, scaleDownSeconds=0)
    scaler.replicas = 3
    assert [scaler.step([None], now) for now in (0, 100, 200)] == [3, 3, 3]
