"""python -m loadtest.device_sharing: two models on one simulated device."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from loadtest.device_sharing import SIMULATED, line, measure


def test_turns_give_a_model_with_short_batches_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    models = {"short": SIMULATED.format(4), "long": SIMULATED.format(100)}
    cases = [{"model": model, "name": name, "rows": 1, "waiting": 2, "think_s": 0.0} for name, model in models.items()]
    without, long_without = measure(cases, "off", 2.0)
    turns, long_turns = measure(cases, "auto", 2.0)
    assert without["per_s"] == pytest.approx(long_without["per_s"], abs=2)  # every other batch
    assert turns["per_s"] > 4 * without["per_s"]
    assert turns["p50_ms"] < without["p50_ms"] / 3
    assert long_turns["per_s"] > 2
    assert "batches/s" in line(turns)
