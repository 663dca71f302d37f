"""docs/security.md: each test that it names exists, and stands in the file that it names."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/security.md").read_text()
NAMED = re.findall(r"([\w/]+\.py)::(test_\w+)", PAGE)


def test_every_test_that_is_named_exists() -> None:
    assert len(NAMED) > 25
    missing = [
        f"{file}::{test}"
        for file, test in NAMED
        if not re.search(rf"^(async )?def {test}\(", (ROOT / "tests" / file).read_text(), re.M)
    ]
    assert missing == []
