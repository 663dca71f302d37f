"""What is run, in which order, and when a run may be resumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from loadtest.drive.order import Load
from loadtest.drive.servers import Served

Side = Literal["baseline", "smartbatch"]
SIDES: tuple[Side, ...] = ("baseline", "smartbatch")
TITLES: dict[Side, str] = {"baseline": "Baseline", "smartbatch": "SmartBatch"}
AUTO_SHARE = 0.8  # of what SmartBatch answers in the closed loop: a load that it should bear


class Phase(NamedTuple):
    """One server under one load, for the plan's duration."""

    side: Side
    load: Load

    @property
    def name(self) -> str:
        return f"{self.load.kind}-{self.load.amount:g}-{self.side}"


@dataclass(frozen=True)
class Plan:
    """Durations in seconds. `rates` may hold "auto": decided once SmartBatch's closed loop has run."""

    served: Served
    scenario: str
    bodies: tuple[str, ...]  # files of one's own
    users: tuple[int, ...]
    rates: tuple[float | str, ...]
    duration_s: int
    warm_s: float

    def as_json(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        return {
            **self.served._asdict(),
            "scenario": self.scenario,
            "bodies": list(self.bodies),
            "users": list(self.users),
            "rates": list(self.rates),
            "duration_s": self.duration_s,
            "warm_s": self.warm_s,
        }

    def closed(self) -> list[Phase]:
        return [Phase(side, Load("closed", users)) for users in self.users for side in SIDES]

    def open(self, best_rate: float) -> list[Phase]:
        """`best_rate`: what SmartBatch answered in the closed loop, a second, at the most."""
        rates = [_round(AUTO_SHARE * best_rate) if rate == "auto" else float(rate) for rate in self.rates]
        return [Phase(side, Load("open", rate)) for rate in rates for side in SIDES]


def _round(rate: float) -> float:
    """Two digits are enough of a rate that was chosen by a rule; at least one a second."""
    return max(1.0, float(f"{rate:.2g}"))
