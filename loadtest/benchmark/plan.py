"""The phases of a run, their order, and the parameters that must match when it is resumed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from loadtest.generator.process import Load
from loadtest.served_model import ServedModel, Side

SIDES: tuple[Side, ...] = ("baseline", "smartbatch")
TITLES: dict[Side, str] = {"baseline": "Baseline", "smartbatch": "SmartBatch"}
AUTO_SHARE = 0.8  # of SmartBatch's throughput in the closed loop, so that it can sustain the load


class Phase(NamedTuple):
    """One server under one load, for the plan's duration."""

    side: Side
    load: Load

    @property
    def name(self) -> str:
        return f"{self.load.kind}-{self.load.amount:g}-{self.side}"


@dataclass(frozen=True)
class Plan:
    """The parameters of a run. `rates` may contain "auto", which is derived from SmartBatch's closed loop."""

    served: ServedModel
    scenario: str
    bodies: tuple[str, ...]  # files given by the user
    users: tuple[int, ...]
    rates: tuple[float | str, ...]
    duration_s: int
    warm_s: float

    def as_json(self) -> dict[str, Any]:
        """Return what must be equal when a run is resumed."""
        own = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        own.pop("served")
        return {**self.served._asdict(), **own}

    def closed(self) -> list[Phase]:
        return [Phase(side, Load("closed", users)) for users in self.users for side in SIDES]

    def open(self, throughput_rps: float) -> list[Phase]:
        """Return the phases of the open loop. `throughput_rps`: SmartBatch's best in the closed loop."""
        # rounded to two digits; at least one request per second
        auto = max(1.0, float(f"{AUTO_SHARE * throughput_rps:.2g}"))
        rates = [auto if rate == "auto" else float(rate) for rate in self.rates]
        return [Phase(side, Load("open", rate)) for rate in rates for side in SIDES]
