"""Unloading versions of a model: away from the traffic, drain, end the workers, delete what they leave.

Each step may be done twice, so a command that failed in between is completed by the same command.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from smartbatch.deploy.launcher.model_workers import ModelWorkers
from smartbatch.deploy.launcher.models import Models, Say
from smartbatch.deploy.launcher.routing_changes import with_draining, without_versions
from smartbatch.shared.broker.admin import registry, removal, routes
from smartbatch.shared.broker.admin.launchers import Unload
from smartbatch.shared.broker.queue.leases import LEASE_MS
from smartbatch.shared.errors import ModelCommandFailed
from smartbatch.shared.keys import MODELS, ROUTES, Keys, model_id, split_model_id
from smartbatch.shared.routing import RoutingTable

POLL_S = 0.5
NOTICED_S = 1.5  # gateways read routing tables and announcements twice a second
FORGOTTEN_S = 2.0
LEASE_S = LEASE_MS / 1000 + 1.0  # by then a worker that was killed has no lease any more


class Unloading:
    """One command, about these versions of one model. `who` is recorded in the history of the routing table."""

    def __init__(self, models: Models, action: Unload, versions: Sequence[int], who: str, say: Say) -> None:
        self._models = models
        self._action = action
        self._versions = versions
        self._ids = [model_id(action.model, version) for version in versions]
        self._what = ", ".join(self._ids)
        self._who = who
        self._say = say

    async def run(self) -> str:
        """Return what was done. Raises ModelCommandFailed or BrokerUnavailable."""
        await self._check_workers()
        if not self._action.now:
            await self._until_without_weight()
        running = [model for each in self._ids if (model := self._models.get(each))]
        for model in running:
            model.unloading = True
        await self._change_table(lambda table: with_draining(table, self._versions), f"drain {self._what}")
        tags = [tag for each in self._ids for tag in await self._models.partitions(each)]
        await self._until_empty(running)
        kept = sum([(await self._models.snapshot(each)).dead for each in self._ids])
        await self._end(running)
        await asyncio.sleep(FORGOTTEN_S)  # gateways forget it because it is draining and not announced
        for tag in tags:
            await self._remove_keys(tag)
        await self._change_table(lambda table: without_versions(table, self._versions), f"unload {self._what}")
        for model in running:
            self._models.forget(model)
        note = f"; {kept} dead letters are kept (smartbatch dead list --name {self._ids[0]})"
        return f"{self._what} unloaded" + (note if kept and not self._action.delete_dead else "")

    async def _check_workers(self) -> None:
        """Raise ModelCommandFailed if there is nothing to unload, or workers that this launcher can't end."""
        announced = await registry.models(self._models.connections.of(MODELS))
        table = await self._table()
        for each, version in zip(self._ids, self._versions, strict=True):
            known = self._models.get(each) or each in announced or version in table.draining
            if not known:
                here = ", ".join(model.id for model in self._models) or "none"
                raise ModelCommandFailed(f"{each} is not loaded; models of this launcher: {here}")
            until = time.monotonic() + LEASE_S
            while foreign := await self._foreign_workers(each):
                if time.monotonic() > until:
                    raise ModelCommandFailed(
                        f"{each} has workers that this launcher did not start ({', '.join(foreign)}); stop those first"
                    )
                await asyncio.sleep(POLL_S)

    async def _foreign_workers(self, model_id: str) -> list[str]:
        snapshot = await self._models.snapshot(model_id)
        model = self._models.get(model_id)
        return model.foreign_workers(snapshot) if model else list(snapshot.workers)

    async def _until_without_weight(self) -> None:
        """Wait until the routing table sends these versions nothing, if there is another version to send it to."""
        until = time.monotonic() + self._action.timeout_s
        while weights := {v: w for v, w in (await self._table()).weights.items() if v in self._versions and w}:
            if not await self._has_others():
                return
            text = ", ".join(f"version {version} has the weight {weight:g}" for version, weight in weights.items())
            if time.monotonic() > until:
                raise ModelCommandFailed(
                    f"{text} in the routing table of {self._action.model}, after {self._action.timeout_s:g} s; nothing "
                    "was changed. Give it the weight 0 (smartbatch route), or unload it with --now"
                )
            await self._say(f"{text}; waiting until it is 0 (smartbatch route, or --now)")
            await asyncio.sleep(POLL_S)

    async def _has_others(self) -> bool:
        """Whether another version of the model has a ready worker."""
        announced = map(split_model_id, await registry.models(self._models.connections.of(MODELS)))
        others = [v for name, v in announced if name == self._action.model and v not in self._versions]
        snapshots = [await self._models.snapshot(model_id(self._action.model, version)) for version in others]
        return any(snapshot.ready_workers for snapshot in snapshots)

    async def _until_empty(self, running: Sequence[ModelWorkers]) -> None:
        """Wait until no gateway sends requests any more and all are answered."""
        await self._say(f"{self._what} gets no more requests")
        await asyncio.sleep(NOTICED_S)
        until = time.monotonic() + self._action.timeout_s
        while True:
            snapshots = [await self._models.snapshot(each) for each in self._ids]
            left = sum(max(each.waiting + each.running, each.open_requests) for each in snapshots)
            away = [part.partition for each in snapshots for part in each.parts if not part.reachable]
            if not left and not away:
                return
            text = f"{left} requests left" + (f", and partitions {away} can't be read" if away else "")
            if time.monotonic() > until:
                cause = "" if running else ", which has no worker: load it again, or cancel them (smartbatch queue)"
                raise ModelCommandFailed(f"{self._what}: {text} after {self._action.timeout_s:g} s{cause}. {REPEAT}")
            await self._say(text)
            await asyncio.sleep(POLL_S)

    async def _end(self, running: Sequence[ModelWorkers]) -> None:
        if workers := sum(len(model.children) for model in running):
            await self._say(f"ending {workers} worker{'s' * (workers > 1)}")
        for model in running:
            await self._models.stop(model)
        for each in self._ids:
            await removal.withdraw(self._models.connections.of(MODELS), each)

    async def _remove_keys(self, tag: str) -> None:
        keys = Keys(tag)
        connection = self._models.connections.of(keys.requests)
        until = time.monotonic() + max(LEASE_S, self._action.timeout_s)
        while any(left := await removal.remove_keys(connection, keys, delete_dead=self._action.delete_dead)):
            if time.monotonic() > until:
                raise ModelCommandFailed(
                    f"{tag} still has {left.entries} requests and {left.workers} workers. {REPEAT}"
                )
            await self._say(f"{tag} still has {left.entries} requests and {left.workers} workers")
            await asyncio.sleep(POLL_S)

    # --- the routing table

    async def _table(self) -> RoutingTable:
        connection = self._models.connections.of(ROUTES)
        return await routes.read(connection, self._action.model) or RoutingTable()

    async def _change_table(self, function: Callable[[RoutingTable], RoutingTable | None], what: str) -> None:
        connection = self._models.connections.of(ROUTES)
        await routes.update(connection, self._action.model, function, who=self._who, what=what)


REPEAT = "It gets no new requests; repeat the command to go on, or load it to serve it again"
