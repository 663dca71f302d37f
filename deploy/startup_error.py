"""Pass the reason why a child can't start to the launcher, through a file.

The launcher prints it once: several workers with the same invalid model would each print it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from smartbatch.shared.errors import SmartBatchError

VARIABLE = "SMARTBATCH_STARTUP_ERROR_FILE"  # set by the launcher for its children only


class StartupFailure(NamedTuple):
    """The code and the text of the error that ended a child."""

    code: str
    text: str


def environ(folder: str, name: str) -> dict[str, str]:
    return {VARIABLE: str(_path(folder, name))}


def has_launcher() -> bool:
    """Whether this process was started by a launcher, which has told the user everything about the environment."""
    return bool(os.environ.get(VARIABLE))


def report(error: SmartBatchError) -> bool:
    """Write an error for the launcher. Returns False if no launcher started this process."""
    path = os.environ.get(VARIABLE)
    if not path:
        return False
    Path(path).write_text(f"{error.code}\n{error}")
    return True


def read(folder: str, name: str) -> StartupFailure | None:
    """Return and delete what the child reported, if it did."""
    path = _path(folder, name)
    if not path.exists():
        return None
    code, _, text = path.read_text().partition("\n")
    path.unlink()
    return StartupFailure(code, text)


def _path(folder: str, name: str) -> Path:
    return Path(folder, f"{name}.error")
