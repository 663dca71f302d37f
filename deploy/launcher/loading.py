"""Loading versions of a model: start their workers and wait until all are ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from smartbatch.deploy.launcher.model_workers import ModelWorkers
from smartbatch.deploy.launcher.models import Models, Say
from smartbatch.deploy.launcher.routing_changes import without_draining
from smartbatch.deploy.models.entry import ModelEntry, fields_of, make_entry
from smartbatch.deploy.models.repository import Repository
from smartbatch.shared.broker.admin import registry, removal, routes
from smartbatch.shared.broker.admin.launchers import Launcher, Load
from smartbatch.shared.broker.queue.leases import LEASE_MS
from smartbatch.shared.errors import BrokerUnavailable, ModelCommandFailed
from smartbatch.shared.keys import MODELS, ROUTES, Keys, check_model_name, model_id
from smartbatch.shared.routing import RoutingTable
from smartbatch.shared.settings import Settings

NOTICED_S = 0.7  # gateways read what is announced twice a second

CLEAN_S = LEASE_MS / 1000 + 1.0  # by then the lease of a worker that was killed has ended
POLL_S = 0.5

Others = Callable[[], Awaitable[Sequence[Launcher]]]


def entries_of(
    action: Load, settings: Settings, repository: Repository | None, *, any_path: bool = True
) -> list[ModelEntry]:
    """Return what a command asks to load: a model with a path, if that is allowed, or versions of the repository.

    Raises SettingsError, UnknownModel or ModelCommandFailed.
    """
    name = check_model_name(action.model)
    fields = {**fields_of(action.settings), **({"workers": action.workers} if action.workers else {})}
    if "path" in fields and not any_path:
        raise ModelCommandFailed("this launcher loads only from its repository (smartbatch up --model-commands)")
    if "path" in fields:
        version = action.version or 1
        return [make_entry(settings, {**fields, "name": name, "version": version}, f"load {model_id(name, version)}")]
    if repository is None:
        raise ModelCommandFailed(
            f"{name}: say what to load (--path); this launcher has no model repository (smartbatch up --models DIR)"
        )
    versions = [action.version] if action.version else repository.selected(name)
    return [repository.entry(name, version, fields) for version in versions]


class Loading:
    """One command. `others`: registers this launcher and returns the other ones. `who`: see Unloading."""

    def __init__(self, models: Models, others: Others, who: str, say: Say) -> None:
        self._models = models
        self._others = others
        self._who = who
        self._say = say

    async def run(self, entries: Sequence[ModelEntry], *, missing_only: bool = False) -> str:
        """Load one version after the other, and return what was done. `missing_only` leaves those alone that are
        already here. Raises ModelCommandFailed, SettingsError or BrokerUnavailable."""
        done = []
        for entry in entries:
            present = self._models.get(entry.id)
            if present and present.unloading:
                done.append(await self._serve_again(present))
            elif not missing_only or not present or present.error:
                done.append(await self._load(entry))
        return "; ".join(done) or f"{', '.join(entry.id for entry in entries)}: already loaded"

    async def _serve_again(self, model: ModelWorkers) -> str:
        """End a failed attempt to unload a model."""
        await self._accept_requests(model)
        model.unloading = False
        return f"{model.id} serves again"

    async def _load(self, entry: ModelEntry) -> str:
        started = time.monotonic()
        model = self._models.add(entry)
        try:
            await self._check_others(model.id)
        except BaseException:
            self._models.forget(model)
            raise
        try:
            await self._models.start(model)
            await self._models.until_ready(model, self._say)
        except ModelCommandFailed:
            await self._models.stop(model)
            await self._clean(model.id)
            raise
        model.established = True
        await self._accept_requests(model)
        seconds = time.monotonic() - started
        await asyncio.sleep(NOTICED_S)  # so that a request sent now finds it
        workers = f"{entry.workers} worker{'s' * (entry.workers > 1)}"
        return f"{model.id} is ready, {workers}, after {seconds:.1f} s"

    async def _check_others(self, model: str) -> None:
        """Raise ModelCommandFailed if another launcher runs the model. As each registers before it looks, two that load
        the same model at the same time don't miss each other."""
        for other in await self._others():
            if any(each.id == model and each.state != "failed" for each in other.models):
                raise ModelCommandFailed(
                    f"{model} is run by the launcher {other.id} (host {other.host}, pid {other.pid}); unload it there "
                    "first, or load another version"
                )

    async def _accept_requests(self, model: ModelWorkers) -> None:
        """Undo the draining of an earlier command, which may have failed before its end."""
        settings = model.entry.settings

        def change(table: RoutingTable) -> RoutingTable | None:
            return without_draining(table, [settings.model_version])

        connection = self._models.connections.of(ROUTES)
        await routes.update(connection, settings.model, change, who=self._who, what=f"load {model.id}")

    async def _clean(self, model: str) -> None:
        """Delete the lease and the like of workers that were killed while they loaded, unless others serve the model.
        If the broker is away meanwhile they stay, and do no harm."""
        try:
            if model in await registry.models(self._models.connections.of(MODELS)):
                return
            until = time.monotonic() + CLEAN_S
            for tag in await self._models.partitions(model):
                keys = Keys(tag)
                connection = self._models.connections.of(keys.requests)
                while any(await removal.remove_keys(connection, keys)):
                    if time.monotonic() > until:
                        return
                    await asyncio.sleep(POLL_S)
        except BrokerUnavailable:
            return
