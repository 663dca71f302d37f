"""Run each fuzzer for a few seconds, so that it keeps working and finds new bugs early."""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.harness import MEMORY_MB

ROOT = Path(__file__).parents[2]
RUNS = {
    "json_body": 10_000,
    "npy_body": 10_000,
    "npz_body": 2_000,
    "msgpack_body": 10_000,
    "multipart_body": 2_000,
    "wire": 10_000,
    "images": 2_000,
}


def test_every_fuzzer_is_run_here() -> None:
    found = {path.stem for path in Path(__file__).parent.glob("*.py") if "def seeds()" in path.read_text()}
    assert found - {"test_fuzzers"} == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_seed_inputs_pass_without_atheris(name: str) -> None:
    """Also without atheris."""
    fuzzer = importlib.import_module(f"tests.fuzz.{name}")
    for seed in fuzzer.seeds():
        fuzzer.one(seed)


@pytest.mark.extended
@pytest.mark.parametrize("name", RUNS)
def test_fuzzer_finds_nothing_in_a_few_seconds(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python or platform")
    # libFuzzer reads the peak of resident memory, which a child inherits from its parent.
    inherited_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    limit = f"-rss_limit_mb={MEMORY_MB + inherited_mb}"
    options = [limit, f"-runs={RUNS[name]}", "-max_total_time=10", "-seed=1", f"-artifact_prefix={tmp_path}/"]
    command = [sys.executable, "-m", f"tests.fuzz.{name}", *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    found = [path.read_bytes()[:1000] for path in tmp_path.iterdir()]
    assert (ended.returncode, found) == (0, []), ended.stderr[-5000:]
    assert "Done " in ended.stderr
    assert "corp: " in ended.stderr  # inputs were kept for their branches: the search was guided
