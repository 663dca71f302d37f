"""The models that the launcher runs: starts and stops their workers, and follows them in the registry."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping

from smartbatch.deploy import startup_error
from smartbatch.deploy.launcher.child import Child
from smartbatch.deploy.launcher.model_workers import ModelWorkers
from smartbatch.deploy.launcher.processes import Processes, Stage
from smartbatch.deploy.lookup import models_named, snapshot_of
from smartbatch.deploy.models.entry import ModelEntry
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.errors import BrokerUnavailable, ModelCommandFailed
from smartbatch.shared.settings import Settings

POLL_S = 0.2

Say = Callable[[str], Awaitable[None]]  # tells whoever sent a command what is done


class Models:
    """By model ID, in the order in which they were started. `environ`: variables of all workers."""

    def __init__(self, settings: Settings, processes: Processes, environ: Mapping[str, str], *, several: bool) -> None:
        self.settings = settings
        self.connections = Connections(settings.broker_url)
        self._processes = processes
        self._environ = environ
        self._several = several  # models are served, so the names of workers begin with the model's
        self._models: dict[str, ModelWorkers] = {}

    def __iter__(self) -> Iterator[ModelWorkers]:
        return iter(list(self._models.values()))

    def get(self, model: str) -> ModelWorkers | None:
        return self._models.get(model)

    def add(self, entry: ModelEntry) -> ModelWorkers:
        """Take a model's place, which one that has failed gives up. Raises ModelCommandFailed if it is taken."""
        present = self._models.get(entry.id)
        if present and not present.error:
            raise ModelCommandFailed(
                f"{entry.id} is already {present.state} here; unload it first, or load it as another version"
            )
        model = self._models[entry.id] = ModelWorkers(entry)
        return model

    async def start(self, model: ModelWorkers) -> None:
        """Start the workers of a model that was added. They share the cores with all workers that were."""
        environ = {**self._environ, **model.entry.environ}
        if not model.entry.settings.torch_threads:
            workers = sum(each.entry.workers for each in self if not each.error)
            environ["TORCH_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
        for number in range(model.entry.workers):
            await self._start_worker(model, number, environ)

    async def _start_worker(self, model: ModelWorkers, number: int, environ: Mapping[str, str]) -> None:
        entry = model.entry
        name = f"{entry.id} worker" if self._several or len(self._models) > 1 else "worker"
        name = f"{name} {number + 1}" if entry.workers > 1 else name
        port = entry.settings.metrics_port
        if port > 0:  # a fixed port, which Prometheus finds again after a restart
            port = port + number if "metrics_port" in entry.changed else self._free_metrics_port(port)
            environ = {**environ, "METRICS_PORT": str(port)}
        environ = {**environ, **startup_error.environ(self._processes.folder, name)}
        child = Child(name, command("worker"), environ, metrics_port=port)
        model.children.append(child)
        await self._processes.add(child, Stage.WORKER, model.may_restart)

    def _free_metrics_port(self, first: int) -> int:
        used = {child.metrics_port for model in self._models.values() for child in model.children}
        while first in used:
            first += 1
        return first

    async def stop(self, model: ModelWorkers) -> None:
        """Have the workers of a model drain, and wait until they have ended."""
        await self._processes.stop(model.children)
        model.children.clear()

    def forget(self, model: ModelWorkers) -> None:
        if self._models.get(model.id) is model:
            del self._models[model.id]

    # --- the registry

    async def snapshot(self, model_id: str) -> Snapshot:
        """Return the state of a model on the broker, over all its partitions. Raises BrokerUnavailable."""
        [found] = await models_named(self.connections, self.settings, model_id)
        return await snapshot_of(self.connections, found)

    async def observe(self, model: ModelWorkers) -> None:
        model.observe(await self.snapshot(model.id))

    async def observe_all(self) -> None:
        for model in self:
            await self.observe(model)

    async def until_ready(self, model: ModelWorkers, say: Say) -> None:
        """Wait until all workers of a model are ready, and tell what they do. Raises ModelCommandFailed."""
        told: dict[str, str] = {}
        while True:
            try:
                await self.observe(model)
            except BrokerUnavailable as error:
                await say(str(error))
            if model.error:
                raise ModelCommandFailed(model.error)
            for name, text in model.progress.items():
                if text and told.get(name) != text:
                    told[name] = text
                    await say(f"{name}  {text}")
            if model.ready == model.entry.workers:
                return
            await asyncio.sleep(POLL_S)

    async def partitions(self, model_id: str) -> list[str]:
        """Return the tags of a model's partitions."""
        [found] = await models_named(self.connections, self.settings, model_id)
        return [partition.tag for partition in found.partitions]

    def close(self) -> None:
        self.connections.close()


def command(*words: str) -> list[str]:
    """Return the command line of `smartbatch WORDS`."""
    # -P: a file in the user's working directory never shadows a module of SmartBatch or the standard library
    return [sys.executable, "-P", "-m", "smartbatch.deploy.cli", *words]
