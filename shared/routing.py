"""Which version of a model gets the requests that name none: the routing table, and how it is written. Pure.

Without a table the highest version that has a ready worker gets all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from smartbatch.shared.errors import SmartBatchError
from smartbatch.shared.keys import parse_version

MAX_WEIGHT = 1_000_000.0


class Promotion(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last `smartbatch promote` of the model. `reason`: why it was aborted."""

    version: int
    state: str  # "running", "done" or "aborted"
    reason: str = ""


class RoutingTable(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model's table: JSON in the hash smartbatch:{routes}:tables.

    `weights`: by version; a version that isn't there gets requests only by its number. `sticky`: a header whose value
    decides the version. `shadow`: a version that gets copies of `shadow_share` of the requests, whose answers are
    thrown away. `draining`: versions that are being unloaded and get no more requests. `revision` counts the changes.
    """

    weights: dict[int, float] = {}
    sticky: str = ""
    shadow: int = 0
    shadow_share: float = 1.0
    draining: tuple[int, ...] = ()
    promotion: Promotion | None = None
    revision: int = 0

    def shares(self, versions: Iterable[int]) -> dict[int, float]:
        """Return which share of the requests each of these versions gets, if those and no others can serve. The highest
        gets all if the table has no weights. Versions without a share are left out."""
        usable = [version for version in versions if version not in self.draining]
        if not self.weights:
            return {max(usable): 1.0} if usable else {}
        weights = {version: self.weights.get(version, 0.0) for version in sorted(usable)}
        total = sum(weights.values())
        return {version: weight / total for version, weight in weights.items() if weight}


def parse_weights(words: Iterable[str]) -> dict[int, float]:
    """Parse words like `1=90`. Raises SmartBatchError, or UnknownModel for a version that can't be one."""
    weights: dict[int, float] = {}
    for word in words:
        version_text, equals, weight_text = word.partition("=")
        if not equals:
            raise SmartBatchError(f"expected VERSION=WEIGHT, like 2=10, got {word[:40]!r}")
        version = parse_version(version_text)
        if version in weights:
            raise SmartBatchError(f"version {version} is given twice")
        weights[version] = _weight(weight_text)
    check_weights(weights)
    return weights


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= MAX_WEIGHT:
        raise SmartBatchError(f"a weight must be a number from 0 to {MAX_WEIGHT:.0f}, got {text[:40]!r}")
    return weight


def check_weights(weights: Mapping[int, float]) -> None:
    """Raise SmartBatchError if no version would get requests."""
    if not sum(weights.values()):
        given = ", ".join(f"{version}={weight:g}" for version, weight in weights.items()) or "none"
        raise SmartBatchError(f"at least one version must have a weight above 0, got {given}")


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(RoutingTable).decode
