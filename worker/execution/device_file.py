"""The file by which the workers of one user on one host share a device: a table of floats in shared memory and locks.

The lock of byte 0 is the device's: whoever holds it has the turn. That of byte n says that the worker of row n lives.
The kernel releases the locks of a process that ends, however it ends. They are POSIX locks, which belong to a process,
so processes that a model forks don't keep them.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

from smartbatch.worker.execution.fair_queue import FIELDS, MODEL, ROWS, clear

SIZE = ROWS * FIELDS * 8  # float64
DEVICE = 0  # the row, and the byte, of the device


class DeviceFile:
    """Owned by the device share. A process opens a file once at a time: closing it drops all its locks.

    Raises OSError if the file can't be used, or if all rows are taken.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):  # a write to a page without space behind it would end the process
                os.posix_fallocate(self._fd, 0, SIZE)
            else:
                os.ftruncate(self._fd, SIZE)
            self.table = memoryview(mmap.mmap(self._fd, SIZE)).cast("d")
            self.row = self._take_row()
        except BaseException:
            os.close(self._fd)
            raise

    def _take_row(self) -> int:
        for row in range(1, ROWS):
            if self.try_lock(row):
                return row
        raise OSError(f"{self._path} has room for {ROWS - 1} workers")

    def try_lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError:
            return False
        return True

    def unlock(self, byte: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, byte)

    def others(self) -> list[int]:
        """Return the rows of the other living workers."""
        return [row for row in range(1, ROWS) if self.table[row * FIELDS + MODEL] and self.is_alive(row)]

    def is_alive(self, row: int) -> bool:
        """Return whether another worker of this row lives; forget it if it doesn't."""
        if row == self.row or not self.try_lock(row):
            return row != self.row
        clear(self.table, row)
        self.unlock(row)
        return False

    def is_current(self) -> bool:
        """Return whether the path still leads to this file. Some systems delete temporary files that look unused."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except OSError:
            return False

    def close(self) -> None:
        clear(self.table, self.row)
        os.close(self._fd)
