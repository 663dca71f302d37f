"""Prices are measured of every command that the simulator charges for."""

from __future__ import annotations

import sys

import msgspec
import pytest

from simulation import prices
from simulation.costs import BrokerCosts, Price


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured on Linux only")
def test_every_command_has_a_price_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "ROUNDS", 5)
    found = prices.measured()
    charged = {name for name, price in msgspec.structs.asdict(BrokerCosts()).items() if isinstance(price, Price)}
    assert found.keys() == charged
    for name in ("admit", "claim", "finish"):
        assert found[name].of(prices.FULL) > found[name].of(1) > 0
    assert 1e-6 < prices.request_s(found) < 1e-3
