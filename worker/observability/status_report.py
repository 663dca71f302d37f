"""The status that a worker publishes with each heartbeat: a Redis hash that expires soon after the last one."""

from __future__ import annotations

import os
import socket
import time
from typing import Protocol

from smartbatch.shared.broker.connection.script import Argument
from smartbatch.shared.settings import Settings
from smartbatch.worker.core.batch import Batch, Limits
from smartbatch.worker.core.model import Model
from smartbatch.worker.observability.metrics import WorkerMetrics


class DeviceStatus(Protocol):
    """The part of the engine that the report reads."""

    @property
    def running(self) -> Batch | None: ...

    @property
    def working_since(self) -> float: ...

    @property
    def known_memory_limit(self) -> int: ...


class Throughput(Protocol):
    """The part of the throughput estimator that the report reads."""

    def rows_per_s(self) -> float: ...
    def batch_full_s(self) -> float: ...
    def bytes_share(self) -> tuple[float, float]: ...


class StatusReport:
    """Built at each heartbeat. Any thread may call `set_state`."""

    def __init__(
        self,
        settings: Settings,
        model: Model,
        engine: DeviceStatus,
        throughput: Throughput,
        metrics: WorkerMetrics,
        limits: Limits,
    ) -> None:
        self._settings = settings
        self._model = model
        self._engine = engine
        self._throughput = throughput
        self._metrics = metrics
        self._started_ms = int(time.time() * 1000)
        self.metrics_port = -1
        self.limits = limits
        self.partition = 0  # that the worker claims from
        self.state = "starting"
        self._progress = ""

    def set_state(self, state: str, progress: str = "") -> None:
        self.state, self._progress = state, progress

    def fields(self) -> dict[str, Argument]:
        now = time.monotonic()
        rows_per_s = self._throughput.rows_per_s()
        row_bytes, bytes_share = self._throughput.bytes_share()
        self._metrics.last_progress.set(time.time() - self._batch_s(now))
        self._metrics.sample(self._model, self._settings, self.limits, rows_per_s)
        running = self._engine.running
        return {
            "state": self.state,
            "progress": self._progress,
            "model": self._settings.model,
            "version": self._settings.model_version,
            "partition": self.partition,
            "model_path": self._settings.model_path,
            "device": self._model.device_name,
            "variant": str(self._model.variant),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_ms": self._started_ms,
            "metrics_port": self.metrics_port,
            "batch": running.id if running else "",
            "batch_rows": running.rows if running else 0,
            "batch_requests": len(running.claimed_entries) if running else 0,
            "batch_s": f"{self._batch_s(now):.3f}",
            "max_batch_size": self.limits.max_rows,
            "max_wait_time": f"{self.limits.window_s:g}",
            "memory_limit_rows": self._engine.known_memory_limit,
            "capacity_rows_per_s": f"{rows_per_s:.3f}",
            "batch_full_s": f"{self._throughput.batch_full_s():.4f}",
            "row_bytes": f"{row_bytes:.1f}",
            "bytes_share": f"{bytes_share:.3f}",
            **self._metrics.report(),
        }

    def _batch_s(self, now: float) -> float:
        """Return how long the running batch has been on the device; 0 while idle."""
        since = self._engine.working_since
        return now - since if since else 0.0
