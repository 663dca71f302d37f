"""Why a child can't start: it says so in a file when a launcher started it, since two workers with one bad model would
say the same on the terminal; the launcher says it once."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "SMARTBATCH_STARTUP_ERROR_FILE"  # set by the launcher for its children only


def environ(folder: str, name: str) -> dict[str, str]:
    return {VARIABLE: str(_path(folder, name))}


def tell(text: str) -> bool:
    """Write it where the launcher looks. False if no launcher started this process."""
    path = os.environ.get(VARIABLE)
    if not path:
        return False
    Path(path).write_text(text)
    return True


def take(folder: str, name: str) -> str:
    """Return what the child said, once; empty if nothing."""
    path = _path(folder, name)
    if not path.exists():
        return ""
    text = path.read_text()
    path.unlink()
    return text


def _path(folder: str, name: str) -> Path:
    return Path(folder, f"{name}.error")
