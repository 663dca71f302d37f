"""The cost benchmark measures every command that the simulator has a cost of."""

from __future__ import annotations

import sys

import msgspec
import pytest

from simulation import cost_benchmark
from simulation.costs import BrokerCosts, CommandCost


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured on Linux only")
def test_every_command_has_a_cost_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_benchmark, "ROUNDS", 5)
    costs = cost_benchmark.measure()
    charged = {name for name, cost in msgspec.structs.asdict(BrokerCosts()).items() if isinstance(cost, CommandCost)}
    assert costs.keys() == charged
    for name in ("admit", "claim", "finish"):
        assert costs[name].of(cost_benchmark.FULL) > costs[name].of(1) > 0
    assert 1e-6 < cost_benchmark.request_s(costs) < 1e-3
