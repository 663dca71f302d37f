"""The pages that prove what they claim by tests: each test that they name exists, in the file that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("page", "at_least"), [("security.md", 25), ("reliability.md", 25)])
def test_every_test_that_is_named_exists(page: str, at_least: int) -> None:
    named = re.findall(r"([\w/]+\.py)::(test_\w+)", (ROOT / "docs" / page).read_text())
    assert len(named) > at_least
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not re.search(rf"^(async )?def {test}\(", (ROOT / "tests" / file).read_text(), re.M)
    ]
    assert missing == []
