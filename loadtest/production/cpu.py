"""Who used the processor during a phase: the servers, the generator, and whatever else ran on this machine."""

from __future__ import annotations

import time

import psutil

from loadtest.bench.system import System


class Cpu:
    """Made when counting begins."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._began = self._now()

    def _now(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        busy = times.user + times.system + getattr(times, "nice", 0.0) + getattr(times, "steal", 0.0)
        return busy, sum(self._system.cpu_s().values()), time.process_time()

    def since(self, generator_cpu_s: float) -> dict[str, float]:
        """CPU seconds: `cpu_s` of the servers, and `others_cpu_s` of processes that are none of ours."""
        busy, servers, own = (now - began for now, began in zip(self._now(), self._began, strict=True))
        others = max(0.0, busy - servers - own - generator_cpu_s)
        return {"cpu_s": round(servers, 3), "others_cpu_s": round(others, 3)}
