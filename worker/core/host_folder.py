"""A folder that all workers of one user on one host have in common: files there coordinate their use of a device."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def host_folder() -> Path:
    """Return the folder, created if it is missing. Raises OSError if another user could write to it.

    It is below the system's folder for temporary files, which TMPDIR changes. XDG_RUNTIME_DIR would be missing where no
    user has logged in, and end with the login.
    """
    folder = Path(tempfile.gettempdir()) / f"smartbatch-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise OSError(f"{folder} is not a folder that only this user may write to")
    return folder
