"""What this process uses of its machine."""

from __future__ import annotations

import resource
import time
from pathlib import Path

_STATM = Path("/proc/self/statm")


class CpuTime:
    """CPU time by all threads of the process, in portions, as a counter takes it."""

    def __init__(self) -> None:
        self._reported_s = 0.0

    def delta_s(self) -> float:
        """Return the seconds since the last call; at the first, since the process began."""
        now_s = time.process_time()
        more_s, self._reported_s = now_s - self._reported_s, now_s
        return more_s


def resident_bytes() -> int:
    """Memory that the process occupies now; 0 where the system doesn't tell (it is read from /proc)."""
    try:
        return int(_STATM.read_bytes().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
