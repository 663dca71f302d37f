"""What `smartbatch route` shows: the routing table of a model, and how its versions do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from rich.console import Group
from rich.table import Table

from smartbatch.deploy.rollout.version_stats import copies, failed, last_minute, received
from smartbatch.deploy.rollout.versions import shares_now, weights_text
from smartbatch.deploy.tables import table as columns
from smartbatch.gateway.core.metrics import ShadowCounts
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.broker.admin.routes import Change
from smartbatch.shared.routing import RoutingTable


class VersionView(msgspec.Struct):
    """`weight` is None if the table has none for it. `share`: of the requests that name no version, by the table; from
    0 to 1, as `received_share`: of the last minute's requests. p50_ms and p99_ms are None without answered requests."""

    version: int
    weight: float | None
    share: float
    ready_workers: int
    requests: int
    received_share: float
    errors: int
    p50_ms: float | None
    p99_ms: float | None
    draining: bool
    copies: ShadowCounts | None


class RouteView(msgspec.Struct):
    model: str
    table: RoutingTable
    versions: list[VersionView]


def view(model: str, table: RoutingTable, snapshots: Mapping[int, Snapshot]) -> RouteView:
    minutes = {version: last_minute(snapshot) for version, snapshot in snapshots.items()}
    total = sum(map(received, minutes.values()))
    shares = shares_now(table, snapshots)
    versions = [
        VersionView(
            version,
            table.weights.get(version),
            round(shares.get(version, 0.0), 6),
            len(snapshots[version].ready_workers),
            received(minute),
            round(received(minute) / total, 6) if total else 0.0,
            failed(minute),
            minute.percentile_ms(50),
            minute.percentile_ms(99),
            version in table.draining,
            copies(snapshots[version]),
        )
        for version, minute in minutes.items()
    ]
    return RouteView(model, table, versions)


def render(shown: RouteView) -> Group:
    rows = columns(
        "version", "weight", "share", "ready workers", "requests/min", "of all", "errors", "p50 ms", "p99 ms", ""
    )
    for each in shown.versions:
        rows.add_row(
            str(each.version),
            "–" if each.weight is None else f"{each.weight:g}",
            f"{each.share:.1%}",
            str(each.ready_workers),
            f"{each.requests:,}",
            f"{each.received_share:.1%}",
            f"{each.errors:,}",
            _ms(each.p50_ms),
            _ms(each.p99_ms),
            _note(each, shown.table),
        )
    return Group(_heading(shown), rows)


def _heading(shown: RouteView) -> str:
    table = shown.table
    parts = [f"{shown.model}: {weights_text(table)}"]
    if table.sticky:
        parts.append(f"sticky by the header {table.sticky}")
    if table.promotion:
        reason = f" ({table.promotion.reason})" if table.promotion.reason else ""
        parts.append(f"promotion of version {table.promotion.version} {table.promotion.state}{reason}")
    return "; ".join(parts)


def _note(each: VersionView, table: RoutingTable) -> str:
    if each.draining:
        return "is being unloaded"
    if each.version == table.shadow:
        return f"shadow of {table.shadow_share:.3g} of the requests{_copies(each.copies)}"
    return "no ready worker: its share goes to the others" if each.weight and not each.ready_workers else ""


def _copies(counts: ShadowCounts | None) -> str:
    if counts is None:
        return ""
    shown = f": {counts.different:,} of {counts.compared:,} answers differ, by {counts.largest:.3g} at most"
    return shown + (f"; {counts.failed:,} copies failed" if counts.failed else "")


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def render_history(changes: Sequence[Change]) -> Table:
    rows = columns("revision", "when", "who", "what", "weights")
    for change in changes:
        weights = weights_text(change.after) if change.after else "no table"
        rows.add_row(str(change.revision), _time(change.at_ms), change.who, change.what, weights)
    return rows


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000).astimezone().isoformat(" ", "seconds")
