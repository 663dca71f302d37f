"""The tests that pages name as evidence exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"([\w/]+\.py)::(test_\w+)")


@pytest.mark.parametrize(("page", "at_least"), [("security.md", 25), ("reliability.md", 25)])
def test_every_named_test_exists(page: str, at_least: int) -> None:
    named = NAMED.findall((ROOT / "docs" / page).read_text())
    assert len(named) > at_least
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not re.search(rf"^(async )?def {test}\(", (ROOT / "tests" / file).read_text(), re.M)
    ]
    assert missing == []


def test_make_test_runs_the_tests_of_every_promise() -> None:
    """Each row of the page's tables is a promise and names its tests. `make test` runs at least one case of each."""
    promises = re.findall(r"^\| .*::test_.*$", (ROOT / "docs/reliability.md").read_text(), re.M)
    assert len(promises) >= 17 + 6  # the failures, and the properties of the protocol
    named = {f"tests/{file}::{test}" for promise in promises for file, test in NAMED.findall(promise)}
    [selection] = re.findall(r"-m \"(.*)\"", re.findall(r"^test:.*\n(.*)", (ROOT / "Makefile").read_text(), re.M)[0])
    files = sorted({test.partition("::")[0] for test in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", selection, *files]
    collected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100).stdout
    assert named - {line.partition("[")[0] for line in collected.splitlines()} == set()
