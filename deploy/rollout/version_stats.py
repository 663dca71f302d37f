"""What the versions of a model did, from what gateways report: in the last minute, and since a moment."""

from __future__ import annotations

import msgspec

from smartbatch.gateway.core.latency_window import Summary, merge, unpack
from smartbatch.gateway.core.metrics import ShadowCounts
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.errors import BrokerUnavailable, CancelledByOperator, ClientError, codes_of

# Errors that say nothing against a version: the client's own, and an operator's cancellation.
_NOT_ITS_DOING = codes_of(ClientError) | {CancelledByOperator.code}


def failed(summary: Summary) -> int:
    """Return the number of requests that ended with an error of the server: failed, timed out, rejected."""
    return sum(count for code, count in summary.errors.items() if code not in _NOT_ITS_DOING)


def received(summary: Summary) -> int:
    return sum(summary.outcomes.values())


def last_minute(snapshot: Snapshot) -> Summary:
    """Return what all gateways counted of one version in the last minute."""
    return merge(unpack(report["minute"]) for report in snapshot.gateways.values() if "minute" in report)


def copies(snapshot: Snapshot) -> ShadowCounts | None:
    """Return what became of the copies that one version got as a shadow, of all gateways since they started; None if it
    got none."""
    found = [
        msgspec.json.decode(report["shadow"], type=ShadowCounts)
        for report in snapshot.gateways.values()
        if "shadow" in report
    ]
    if not found:
        return None
    return ShadowCounts(
        sum(each.compared for each in found),
        sum(each.different for each in found),
        sum(each.failed for each in found),
        sum(each.skipped for each in found),
        max(each.largest for each in found),
    )


class VersionStats:
    """What all gateways have counted of one version since its first snapshot.

    A gateway process that isn't in the first snapshot has counted nothing before. One that ends keeps its last counts.
    Raises BrokerUnavailable if a snapshot lacks the partition to which gateways report.
    """

    def __init__(self, first: Snapshot) -> None:
        self._before = _totals(first)
        self._now = dict(self._before)

    def add(self, snapshot: Snapshot) -> Summary:
        """Add a later snapshot, and return the counts since the first. Raises BrokerUnavailable as the first does."""
        self._now |= _totals(snapshot)
        return merge(total.since(self._before.get(name, _NOTHING)) for name, total in self._now.items())


_NOTHING = Summary()


def _totals(snapshot: Snapshot) -> dict[str, Summary]:
    if snapshot.parts and not snapshot.parts[0].reachable:
        raise BrokerUnavailable(f"the counts of {snapshot.model} can't be read")
    return {name: unpack(report["total"]) for name, report in snapshot.gateways.items() if "total" in report}
