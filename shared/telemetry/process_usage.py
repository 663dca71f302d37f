"""CPU time and memory of this process."""

from __future__ import annotations

import resource
import time
from pathlib import Path

_STATM = Path("/proc/self/statm")


class CpuTime:
    """CPU time of all threads of the process, in increments for a counter."""

    def __init__(self) -> None:
        self._reported_s = 0.0

    def delta_s(self) -> float:
        """Return the CPU seconds since the last call, or since the process started."""
        now_s = time.process_time()
        delta_s, self._reported_s = now_s - self._reported_s, now_s
        return delta_s


def resident_bytes() -> int:
    """Return the resident memory of the process; 0 on systems without /proc."""
    try:
        return int(_STATM.read_bytes().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
