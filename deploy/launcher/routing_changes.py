"""How a routing table changes when a version is unloaded or loaded. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from smartbatch.shared.routing import RoutingTable


def with_draining(table: RoutingTable, versions: Iterable[int]) -> RoutingTable:
    return replace(table, draining=tuple(sorted({*table.draining, *versions})))


def without_draining(table: RoutingTable, versions: Iterable[int]) -> RoutingTable | None:
    return _or_none(replace(table, draining=tuple(v for v in table.draining if v not in set(versions))))


def without_versions(table: RoutingTable, versions: Iterable[int]) -> RoutingTable | None:
    """Remove all that is said of these versions. Returns None if nothing is left to say."""
    gone = set(versions)
    weights = {version: weight for version, weight in table.weights.items() if version not in gone}
    table = replace(
        table,
        weights=weights if sum(weights.values()) else {},
        draining=tuple(version for version in table.draining if version not in gone),
        promotion=None if table.promotion and table.promotion.version in gone else table.promotion,
    )
    return _or_none(replace(table, shadow=0, shadow_share=1.0) if table.shadow in gone else table)


def _or_none(table: RoutingTable) -> RoutingTable | None:
    return None if replace(table, revision=0) == RoutingTable() else table
