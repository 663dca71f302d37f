"""Changes of a routing table that an operator asks for: checked, and as functions of the table. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from smartbatch.shared.broker.admin.routes import Change
from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.routing import Promotion, RoutingTable

UNFINISHED = ("running", "paused")  # states of a promotion

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")  # RFC 9110's token


class RouteChange(msgspec.Struct, frozen=True):
    """What `smartbatch route` was asked to change. None leaves a part of the table as it is."""

    weights: dict[int, float] | None = None
    sticky: str | None = None  # "" for none
    shadow: int | None = None  # 0 for none
    shadow_share: float | None = None
    reset: bool = False

    @property
    def versions(self) -> set[int]:
        """The versions that it names."""
        return {*(self.weights or ()), *([self.shadow] if self.shadow else ())}

    @property
    def what(self) -> str:
        """For the history, as on the command line."""
        words = ["--reset"] if self.reset else []
        words += [f"{version}={weight:g}" for version, weight in (self.weights or {}).items()]
        for option, value in (("sticky", self.sticky), ("shadow", self.shadow)):
            if value is not None:
                words.append(f"--{option} {value}" if value else f"--no-{option}")
        if self.shadow_share is not None:
            words.append(f"--shadow-share {self.shadow_share:g}")
        return " ".join(words)

    def check(self) -> None:
        """Raise SmartBatchError for what can't be part of any table."""
        if self.reset and self != RouteChange(reset=True):
            raise SmartBatchError("--reset can't be combined with other changes")
        if self.sticky and not _HEADER.fullmatch(self.sticky):
            raise SmartBatchError(f"--sticky must be the name of a header, like X-User, got {self.sticky[:60]!r}")
        if self.shadow_share is not None and not 0 < self.shadow_share <= 1:
            raise SmartBatchError(f"--shadow-share must be above 0 and at most 1, got {self.shadow_share:g}")

    def apply(self, table: RoutingTable) -> RoutingTable | None:
        """Return the changed table, in which no promotion is under way, or None for none. Raises SmartBatchError."""
        if self.reset:
            return RoutingTable(draining=table.draining) if table.draining else None
        parts = {
            name: value for name in ("sticky", "shadow", "shadow_share") if (value := getattr(self, name)) is not None
        }
        weights = self.weights if self.weights is not None else table.weights
        changed = msgspec.structs.replace(table, weights=weights, promotion=None, **parts)
        if changed.shadow and changed.weights.get(changed.shadow):
            raise SmartBatchError(
                f"version {changed.shadow} can't be the shadow, because it has a weight; use --no-shadow, or give it "
                "the weight 0"
            )
        if self.shadow_share is not None and not changed.shadow:
            raise SmartBatchError("--shadow-share needs a shadow: --shadow VERSION")
        return changed if changed.shadow else msgspec.structs.replace(changed, shadow_share=1.0)


# --- going back


def is_step(table: RoutingTable) -> bool:
    """Return whether the table is a step of a promotion that has not ended, which is no table to go back to."""
    return table.promotion is not None and table.promotion.state in UNFINISHED


def settled_table(table: RoutingTable, changes: Sequence[Change]) -> RoutingTable:
    """Return the table of before the promotion that is under way, or else `table`. `changes`: newest first."""
    for change in changes:
        if not is_step(table):
            break
        table = change.before or RoutingTable()
    return table


def earlier_table(table: RoutingTable, changes: Sequence[Change]) -> RoutingTable:
    """Return the last table that had other weights than `table`. `changes`: newest first.

    Raises SmartBatchError if there is none, or if an aborted promotion has gone back to it already.
    """
    if table.promotion and table.promotion.state == "aborted":
        raise SmartBatchError(
            f"the promotion of version {table.promotion.version} was aborted, so the weights are those of before it "
            "already; --to REVISION goes further back"
        )
    for change in changes:
        before = change.before or RoutingTable()
        if before.weights != table.weights and not is_step(before):
            return before
    raise SmartBatchError("no earlier weights are known")


def table_of(revision: int, changes: Sequence[Change]) -> RoutingTable:
    """Return the table as it was after a change. Raises SmartBatchError if the history doesn't have it."""
    for change in changes:
        if change.revision == revision:
            return change.after or RoutingTable()
    known = f"expected {changes[-1].revision} to {changes[0].revision}" if changes else "there are none"
    raise SmartBatchError(f"no revision {revision} in the history; {known}")


def going_back(present: RoutingTable, earlier: RoutingTable, promotion: Promotion | None = None) -> RoutingTable:
    """Return an earlier table, for the present. Which versions are being unloaded stays as it is."""
    return msgspec.structs.replace(earlier, draining=present.draining, promotion=promotion, revision=present.revision)
