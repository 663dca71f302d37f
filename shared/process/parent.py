"""A process that ends with its parent (Linux; elsewhere a killed parent leaves its children)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
# Loaded now: loading it between fork and exec could deadlock.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent(parent_pid: int | None = None) -> None:
    """Ask the kernel for a SIGTERM when the parent ends. Safe between fork and exec.

    With `parent_pid` one that ended before this call counts too; the kernel says nothing of that.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if parent_pid is not None and os.getppid() != parent_pid:
            os.kill(os.getpid(), signal.SIGTERM)
