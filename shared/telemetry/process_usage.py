"""CPU time, memory and age of this process."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

_STATM = Path("/proc/self/statm")
_STAT = Path("/proc/self/stat")
_STARTTIME = 19  # index after the command's name, in clock ticks since boot (proc(5))


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


def age_s() -> float:
    """Return the seconds since the process started; without /proc, its CPU seconds, which are fewer."""
    try:
        started_ticks = int(_STAT.read_text().rpartition(")")[2].split()[_STARTTIME])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")
    except OSError:
        return time.process_time()
