"""The workers of one version of a model, and what the registry says of them."""

from __future__ import annotations

import socket
from typing import Literal

from smartbatch.deploy.launcher.child import Child
from smartbatch.deploy.launcher.processes import Exit
from smartbatch.deploy.models.entry import ModelEntry
from smartbatch.shared.broker.admin.launchers import ServedModel
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.errors import BrokerUnavailable

HOST = socket.gethostname()


class ModelWorkers:
    """Owned by Models. Until it is `established`, a worker that ends by itself is a failure of the model; later it is
    restarted, as the cause may be temporary."""

    def __init__(self, entry: ModelEntry) -> None:
        self.entry = entry
        self.children: list[Child] = []
        self.ready = 0  # workers
        self.established = False
        self.unloading = False
        self.error = ""  # why it could not be loaded
        self.failed_child = ""
        self.progress: dict[str, str] = {}  # by child

    @property
    def id(self) -> str:
        return self.entry.id

    @property
    def state(self) -> Literal["starting", "loading", "ready", "unloading", "failed"]:
        if self.error:
            return "failed"
        if self.unloading:
            return "unloading"
        if self.ready:
            return "ready"
        return "loading" if any(self.progress.values()) else "starting"

    @property
    def text(self) -> str:
        """The error, or the progress of the worker that is not ready."""
        return self.error or ("" if self.ready else next(filter(None, self.progress.values()), ""))

    @property
    def registration(self) -> ServedModel:
        entry = self.entry
        return ServedModel(self.id, entry.settings.model_path, entry.workers, self.ready, self.state, self.text)

    def may_restart(self, child: Child, ended: Exit) -> bool:
        """Say whether a worker that ended is started again; if not, the model has failed."""
        away = ended.failure is not None and ended.failure.code == BrokerUnavailable.code
        if self.established or away:
            return True
        if not self.error:
            self.error = ended.failure.text if ended.failure else f"{child.name} {ended}"
            self.failed_child = child.name
        return False

    def observe(self, snapshot: Snapshot) -> None:
        """Take over the reports of the model's workers."""
        names = {pid: child.name for pid, child in self._running().items()}
        own = {names[_pid(report)]: report for report in snapshot.workers.values() if _pid(report) in names}
        self.ready = sum(report.get("state") == "ready" for report in own.values())
        self.progress = {name: report.get("progress") or report.get("state", "") for name, report in own.items()}

    def foreign_workers(self, snapshot: Snapshot) -> list[str]:
        """Return the IDs of the workers that another process started."""
        running = self._running()
        return [worker_id for worker_id, report in snapshot.workers.items() if _pid(report) not in running]

    def _running(self) -> dict[int, Child]:
        return {child.pid: child for child in self.children if child.running}


def _pid(report: dict[str, str]) -> int:
    """Return the process ID in a report of this machine, else 0."""
    return int(report.get("pid") or 0) if report.get("host") == HOST else 0
