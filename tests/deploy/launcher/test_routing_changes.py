"""How loading and unloading change a routing table."""

from __future__ import annotations

from smartbatch.deploy.launcher.routing_changes import with_draining, without_draining, without_versions
from smartbatch.shared.routing import Promotion, RoutingTable


def test_a_version_that_drains_keeps_its_weight() -> None:
    table = RoutingTable({1: 90, 2: 10}, draining=(3,), revision=4)
    assert with_draining(table, [1, 3]) == RoutingTable({1: 90, 2: 10}, draining=(1, 3), revision=4)


def test_a_version_that_is_loaded_again_drains_no_more() -> None:
    assert without_draining(RoutingTable({1: 1}, draining=(1, 2)), [1]) == RoutingTable({1: 1}, draining=(2,))
    assert without_draining(RoutingTable(draining=(1,), revision=7), [1]) is None


def test_nothing_is_left_of_a_version_that_is_unloaded() -> None:
    table = RoutingTable({1: 90, 2: 0}, "x-user", 1, 0.5, (1, 3), Promotion(1, "done"), 4)
    assert without_versions(table, [1]) == RoutingTable(sticky="x-user", draining=(3,), revision=4)


def test_other_versions_keep_what_they_have() -> None:
    table = RoutingTable({1: 90, 2: 10}, shadow=3, shadow_share=0.5, draining=(1,), promotion=Promotion(2, "running"))
    expected = RoutingTable({2: 10}, shadow=3, shadow_share=0.5, promotion=Promotion(2, "running"))
    assert without_versions(table, [1]) == expected


def test_a_table_that_says_nothing_any_more_is_deleted() -> None:
    assert without_versions(RoutingTable({2: 10}, draining=(2,), revision=3), [2]) is None
    assert without_versions(RoutingTable(), [2]) is None
