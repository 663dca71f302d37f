"""The URL of the embedded broker of each `smartbatch up` that runs, in files of this user alone.

Commands on the same machine find that broker there, whatever its port.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from smartbatch.shared.broker.connection.check import check
from smartbatch.shared.errors import BrokerUnavailable


@contextlib.contextmanager
def written(url: str) -> Iterator[None]:
    """Keep the file of this process while its broker runs. Without a safe folder there is no file."""
    folder = _folder()
    file = folder / f"{os.getpid()}.url"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if _is_private(folder):
            file.unlink(missing_ok=True)  # of an earlier process with this ID, which was killed
            file.touch(mode=0o600)
            file.write_text(url)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()


def find() -> str | None:
    """Return the URL of the broker that was started last and answers."""
    folder = _folder()
    if not _is_private(folder):
        return None
    for file in sorted(folder.glob("*.url"), key=_written_ns, reverse=True):
        with contextlib.suppress(OSError, BrokerUnavailable, ValueError):
            url = file.read_text()
            asyncio.run(check(url))
            return url
    return None


def _folder() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime, "smartbatch") if runtime else Path(tempfile.gettempdir(), f"smartbatch-{os.getuid()}")


def _is_private(folder: Path) -> bool:
    """Whether nobody else can write there: anybody may make a folder of this name in the temporary one."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _written_ns(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:  # its process has just ended
        return 0
