"""Every block of docs/clients.md runs as written, except for the address."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.stack import ROOT, Process, Stack

BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "docs" / "clients.md").read_text(), re.M | re.S)
SUFFIXES = {"bash": ".sh", "python": ".py", "javascript": ".mjs"}


def test_every_client_has_its_blocks() -> None:
    languages = [language for language, _ in BLOCKS]
    assert {language: languages.count(language) for language in SUFFIXES} == {"bash": 3, "python": 4, "javascript": 1}


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=lambda number: f"{number}-{BLOCKS[number][0]}")
def test_client_block_runs_as_written(number: int, system: Stack, grpc_gateway: Process, tmp_path: Path) -> None:
    language, text = BLOCKS[number]
    text = text.replace("localhost:8000", system.url.removeprefix("http://"))
    text = text.replace("localhost:8001", grpc_gateway.url)
    program = sys.executable if language == "python" else shutil.which("node" if language == "javascript" else "bash")
    if program is None:
        pytest.skip("no node on PATH (Debian: apt-get install nodejs)")
    script = tmp_path / f"block{SUFFIXES[language]}"
    script.write_text(text)
    run = subprocess.run([program, str(script)], cwd=ROOT, capture_output=True, timeout=60)
    assert run.returncode == 0, run.stderr.decode()
    expected = b'"binary_data_size":4000' if "Content-Length: 0" in text else b"Egyptian cat"
    assert expected in run.stdout, run.stdout[:2000]
