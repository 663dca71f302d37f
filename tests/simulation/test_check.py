"""The comparison of the simulation with measured runs."""

from __future__ import annotations

from simulation.check import reproduced


def _run(rate: float, p50_ms: float, gateway_s: float) -> dict:
    cpu = {"root": 0.0, "gateway": gateway_s, "broker": 0.03, "worker": 0.05}  # per 1,000 requests
    return {
        "requests_per_s": rate,
        "p50_ms": p50_ms,
        "cpu_s_per_1000": cpu,
        "generator_cpu_s_per_1000": 0.03,
    }


def test_each_load_has_a_row_with_its_median_run_and_the_simulations_deviation() -> None:
    fast, slow = 0.1, 0.6  # at 0.6 ms per request a gateway serves 1,667 per second
    rounds = {
        "64": [_run(3000.0, 21.0, fast), _run(1.0, 1.0, slow), _run(9999.0, 1.0, slow)],
        "256": [_run(1650.0, 155.0, slow)] * 3,
    }
    _, _, quick, held_up = reproduced({"machine": {"cores": 4}, "rows": {"S": {"details": rounds}}})
    assert quick.startswith("| 64 | 3,000 | 3,0")  # the device's capacity
    assert held_up.startswith("| 256 | 1,650 | 1,6")
    for line in (quick, held_up):
        off = [float(cell.strip(" %")) for cell in line.split("|") if "%" in cell]
        assert len(off) == 2
        assert all(abs(each) < 5 for each in off)
