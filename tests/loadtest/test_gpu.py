"""python -m loadtest.gpu, on the CPU: what it measures adds up, and the engine runs what it is given."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_bare_and_engine_are_measured_on_any_device(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--dtype", "float32", "--models", "squeezenet1_1", "--sizes", "1,2"]
    command = [sys.executable, "-m", "loadtest.gpu", *options, "--quick", "--no-http", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=200)
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["device"] == "cpu"
    found = result["models"]["squeezenet1_1"]
    assert found["form"]
    assert set(found["images_per_s"]) == {"1", "2"}
    for rates in found["images_per_s"].values():
        assert 0.1 < rates["engine"] / rates["bare"] < 10
