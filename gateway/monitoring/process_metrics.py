"""Measures a gateway process twice a second: CPU time, memory, connections and event loop lag."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import mark_process_dead

from smartbatch.gateway.core.body_memory import BodyMemoryBudget
from smartbatch.shared.telemetry import metric_names as names
from smartbatch.shared.telemetry.process_usage import CpuTime, resident_bytes


class ProcessMetrics:
    """One per gateway process; used in its event loop. With several processes, a scrape adds up their values."""

    def __init__(
        self, registry: CollectorRegistry, connections: Callable[[], int], body_memory: BodyMemoryBudget
    ) -> None:
        self._open_connections = connections
        self._body_memory = body_memory
        self._cpu_time = CpuTime()
        self._cpu = names.GATEWAY_CPU.counter(registry)
        self._memory = names.GATEWAY_MEMORY.gauge(registry)
        self._connections = names.CONNECTIONS.gauge(registry)
        self._receiving_bytes = names.RECEIVING_BYTES.gauge(registry)
        self._lag = names.LOOP_LAG.histogram(registry)

    def observe_loop_lag(self, late_s: float) -> None:
        """Record how late the event loop woke."""
        self._lag.observe(max(0.0, late_s))

    def update(self) -> None:
        self._cpu.inc(self._cpu_time.delta_s())
        self._memory.set(resident_bytes())
        self._connections.set(self._open_connections())
        self._receiving_bytes.set(self._body_memory.bytes)


def remove_dead_processes(folder: str) -> None:
    """Remove the gauges of ended gateway processes from prometheus_client's files. Their counters stay."""
    for path in Path(folder).glob("gauge_live*.db"):
        pid = int(path.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            with contextlib.suppress(FileNotFoundError):  # another process may handle a scrape at the same time
                mark_process_dead(pid, folder)
