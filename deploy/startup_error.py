"""Pass the reason why a child can't start to the launcher, through a file.

The launcher prints it once: several workers with the same invalid model would each print it.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "SMARTBATCH_STARTUP_ERROR_FILE"  # set by the launcher for its children only


def environ(folder: str, name: str) -> dict[str, str]:
    return {VARIABLE: str(_path(folder, name))}


def has_launcher() -> bool:
    """Whether this process was started by a launcher, which has told the user everything about the environment."""
    return bool(os.environ.get(VARIABLE))


def report(text: str) -> bool:
    """Write `text` for the launcher. Returns False if no launcher started this process."""
    path = os.environ.get(VARIABLE)
    if not path:
        return False
    Path(path).write_text(text)
    return True


def read(folder: str, name: str) -> str:
    """Return and delete the text that the child reported; empty if there is none."""
    path = _path(folder, name)
    if not path.exists():
        return ""
    text = path.read_text()
    path.unlink()
    return text


def _path(folder: str, name: str) -> Path:
    return Path(folder, f"{name}.error")
