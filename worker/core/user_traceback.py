"""Errors of a user's code: the part of a traceback that is theirs, and one line that names the place."""

from __future__ import annotations

import os
import sysconfig
from types import TracebackType

_STDLIB = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def without_callers(error: BaseException) -> TracebackType | None:
    """Return the traceback from the user's first frame on. All of it if no frame is theirs."""
    found = error.__traceback__
    while found is not None and not _is_users(found):
        found = found.tb_next
    return found or error.__traceback__


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def describe(error: BaseException) -> str:
    """Return type and text of an error, with the file and line of the user's code that raised or called it."""
    place = ""
    found = error.__traceback__
    while found is not None:
        if _is_users(found):
            place = f" ({found.tb_frame.f_code.co_filename}, line {found.tb_lineno})"
        found = found.tb_next
    return f"{type(error).__name__}: {one_line(error)}{place}"


def _is_users(found: TracebackType) -> bool:
    module = found.tb_frame.f_globals.get("__name__", "")
    file = found.tb_frame.f_code.co_filename
    return not (
        module.startswith("smartbatch.") or file.startswith(("<", _STDLIB)) or any(part in file for part in _INSTALLED)
    )
