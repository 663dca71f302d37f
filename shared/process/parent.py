"""Make a process end with its parent. Linux only; elsewhere the children of a killed parent keep running."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
# Loaded at import, because loading it between fork and exec could deadlock.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent(parent_pid: int | None = None) -> None:
    """Ask the kernel for a SIGTERM when the parent ends. Safe between fork and exec.

    With `parent_pid`, this also detects a parent that ended before the call, which the kernel does not report.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if parent_pid is not None and os.getppid() != parent_pid:
            os.kill(os.getpid(), signal.SIGTERM)
