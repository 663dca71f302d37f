"""What a worker reports of itself: a hash on Redis that expires soon after its last heartbeat."""

from __future__ import annotations

import os
import socket
import time
from typing import Protocol

from smartbatch.shared.broker.connection.script import Argument
from smartbatch.shared.settings import Settings
from smartbatch.worker.core.batch import Batch, Limits
from smartbatch.worker.core.estimators import ThroughputEstimator
from smartbatch.worker.core.model import Model
from smartbatch.worker.observability.metrics import WorkerMetrics


class DeviceStatus(Protocol):
    """What the report reads of the engine."""

    @property
    def running(self) -> Batch | None: ...

    @property
    def working_since(self) -> float: ...

    @property
    def memory_limit(self) -> int: ...


class StatusReport:
    """Built at each heartbeat. `now` may be called by any thread."""

    def __init__(
        self,
        settings: Settings,
        model: Model,
        engine: DeviceStatus,
        service: ThroughputEstimator,
        worker_metrics: WorkerMetrics,
        limits: Limits,
    ) -> None:
        self._settings = settings
        self._model = model
        self._engine = engine
        self._service = service
        self._worker_metrics = worker_metrics
        self._started_ms = int(time.time() * 1000)
        self.metrics_port = -1
        self.limits = limits  # as they are now
        self.state = "starting"
        self._progress = ""

    def now(self, state: str, progress: str = "") -> None:
        self.state, self._progress = state, progress

    def fields(self) -> dict[str, Argument]:
        now = time.monotonic()
        self._worker_metrics.last_progress.set(time.time() - self._stalled_s(now))
        self._worker_metrics.look(self._model, self._settings, self.limits, self._service.rows_per_s())
        running = self._engine.running
        return {
            "state": self.state,
            "progress": self._progress,
            "model": self._settings.model,
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
            "batch_s": f"{self._stalled_s(now):.3f}",
            "max_batch_size": self.limits.max_rows,
            "max_wait_time": f"{self.limits.window_s:g}",
            "memory_limit_rows": self._engine.memory_limit,
            "capacity_rows_per_s": f"{self._service.rows_per_s():.3f}",
            "batch_full_s": f"{self._service.batch_full_s():.4f}",
            **self._worker_metrics.report(),
        }

    def _stalled_s(self, now: float) -> float:
        """How long the running batch has been on the device."""
        since = self._engine.working_since
        return now - since if since else 0.0
