"""Counts over several gateway processes, since a moment and of the last minute."""

from __future__ import annotations

import pytest

from smartbatch.deploy.rollout.version_stats import VersionStats, failed, last_minute, received
from smartbatch.gateway.core.latency_window import Summary, pack
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.errors import BrokerUnavailable
from tests.deploy.rollout.reports import counted


def snapshot(**gateways: Summary) -> Snapshot:
    part = Snapshot("m", gateways={name: {"total": pack(total)} for name, total in gateways.items()})
    return Snapshot.together("m", [part])


def test_only_what_came_after_the_first_snapshot_counts() -> None:
    stats = VersionStats(snapshot(a=counted(100, 7), b=counted(50)))
    assert stats.add(snapshot(a=counted(100, 7), b=counted(50))) == Summary()
    assert stats.add(snapshot(a=counted(110, 8), b=counted(55))) == counted(15, 1)


def test_a_gateway_that_starts_later_counts_from_its_start() -> None:
    stats = VersionStats(snapshot())
    assert stats.add(snapshot(a=counted(3))) == counted(3)


def test_a_gateway_that_ends_keeps_its_last_counts() -> None:
    stats = VersionStats(snapshot(a=counted(100)))
    stats.add(snapshot(a=counted(110), b=counted(5)))
    assert stats.add(snapshot(b=counted(6))) == counted(16)
    assert stats.add(snapshot()) == counted(16)


def test_a_gateway_without_totals_counts_nothing() -> None:
    snapshot = Snapshot.together("m", [Snapshot("m", gateways={"old": {"pid": "1"}})])
    assert (VersionStats(snapshot).add(snapshot), last_minute(snapshot)) == (Summary(), Summary())


def test_counts_that_cannot_be_read_are_not_taken_for_none() -> None:
    away = Snapshot.together("m", [Snapshot.unreachable("m"), Snapshot("m", partition=1)])
    with pytest.raises(BrokerUnavailable, match="the counts of m can't be read"):
        VersionStats(away)
    stats = VersionStats(snapshot(a=counted(1)))
    with pytest.raises(BrokerUnavailable):
        stats.add(away)


def test_errors_are_those_of_the_server() -> None:
    errors = {"model_failed": 1, "deadline_exceeded": 2, "queue_full": 4, "invalid_input": 8, "rate_limited": 16}
    seen = Summary({"ok": 100, "error": 1, "timeout": 2, "rejected": 20, "invalid": 8}, errors, {0: 100})
    assert (failed(seen), received(seen)) == (7, 131)
