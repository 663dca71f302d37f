"""The model queues of a gateway process, one per version, and which of them a request goes to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.gateway.queue.model_queue import ModelQueue
from smartbatch.gateway.routing.route import Route
from smartbatch.gateway.routing.shadow import Shadow
from smartbatch.shared.errors import BrokerUnavailable, UnknownModel
from smartbatch.shared.keys import check_model_name, model_id, split_model_id
from smartbatch.shared.routing import RoutingTable

log = logging.getLogger(__name__)

CHECK_EVERY_S = 0.1  # whether requests wait for a version without workers, and which queues can be closed

Headers = Iterable[tuple[bytes, bytes]]


class Router:
    """Owned by the gateway's services. Creates and closes the model queues."""

    def __init__(
        self,
        default: str,
        queues: dict[str, ModelQueue],
        monitor: SystemMonitor,
        open_queue: Callable[[str], ModelQueue],
        forget: Callable[[str], None],
    ) -> None:
        """`default`: the ID of the model of requests that name none. `queues`: by model ID. `open_queue` adds one.
        `forget` is called with the ID of one that was closed."""
        self.default = default
        self._default_name, _ = split_model_id(default)
        self._queues = queues
        self._monitor = monitor
        self._open_queue = open_queue
        self._forget = forget
        self._routes: dict[str, Route[ModelQueue]] = {}
        self.shadows: dict[str, Shadow] = {}  # of the models that have one now, by name
        self._last_ready: dict[str, list[int]] = {}

    def route(self, name: str | None, version: int, headers: Headers, timeout_ms: int) -> ModelQueue:
        """Return the queue of a request, if that accepts it: of the `version`, or if that is 0 of the version that the
        routing table chooses. Raises UnknownModel or Unavailable."""
        name = name or self._default_name
        if version:
            queue = self._queue_of_version(name, version)
            queue.check(timeout_ms)
            return queue
        return (self._routes.get(name) or self._open_route(name)).choose(headers, timeout_ms)

    def observe(self) -> None:
        """Take over what the monitor has just read."""
        for name, route in list(self._routes.items()):
            if self._usable(name):
                self._update(route)
            else:
                del self._routes[name]
                self._last_ready.pop(name, None)
                self.shadows.pop(name, None)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            for queue in list(self._queues.values()):
                try:
                    await self._move_from(queue)
                except BrokerUnavailable as error:
                    log.warning("requests of %s could not be moved: %s", queue.model, error)
                if self._can_be_closed(queue):
                    del self._queues[queue.model]
                    await queue.close()
                    self._forget(queue.model)

    # --- within

    def _queue_of_version(self, name: str, version: int) -> ModelQueue:
        known = self._monitor.versions(check_model_name(name))
        if not known:
            raise self._unknown(name)
        if version not in known:
            versions = ", ".join(map(str, known))
            raise UnknownModel(f"model {name!r} has no version {version}; available: {versions}")
        if version in self._table(name).draining:
            raise UnknownModel(f"version {version} of model {name!r} is being unloaded")
        return self._queue(name, version)

    def _open_route(self, name: str) -> Route[ModelQueue]:
        if not self._monitor.versions(check_model_name(name)):
            raise self._unknown(name)
        if not self._usable(name):
            raise UnknownModel(f"model {name!r} is being unloaded")
        route = self._routes[name] = Route(name)
        self._update(route)
        return route

    def _unknown(self, name: str) -> UnknownModel:
        names = ", ".join(sorted({self._default_name, *self._monitor.known.versions}))
        return UnknownModel(f"model {name!r} not found; available: {names}")

    def _update(self, route: Route[ModelQueue]) -> None:
        name = route.name
        route.table = table = self._table(name)
        known = self._usable(name)
        ready = [version for version in known if self._monitor.is_ready(model_id(name, version))]
        if ready:
            self._last_ready[name] = ready
        # Without a ready worker requests wait where they went last: workers start there again.
        waiting = [version for version in self._last_ready.get(name, ()) if version in known]
        shares = table.shares(ready) or table.shares(waiting) or table.shares(known) or {max(ready or known): 1.0}
        route.shares = [(share, self._queue(name, version)) for version, share in shares.items()]
        self._update_shadow(name, table, ready)

    def _update_shadow(self, name: str, table: RoutingTable, ready: Sequence[int]) -> None:
        if table.shadow not in ready or table.weights.get(table.shadow) or table.shadow in table.draining:
            self.shadows.pop(name, None)
            return
        queue, shadow = self._queue(name, table.shadow), self.shadows.get(name)
        if shadow is None or shadow.queue is not queue:
            shadow = self.shadows[name] = Shadow(queue, table.shadow_share)
        shadow.share = table.shadow_share

    def _usable(self, name: str) -> list[int]:
        """Return the known versions that are not being unloaded."""
        draining = self._table(name).draining
        return [version for version in self._monitor.versions(name) if version not in draining]

    def _table(self, name: str) -> RoutingTable:
        return self._monitor.known.tables.get(name) or NO_TABLE

    def _queue(self, name: str, version: int) -> ModelQueue:
        wanted = model_id(name, version)
        return self._queues.get(wanted) or self._open_queue(wanted)

    async def _move_from(self, queue: ModelQueue) -> None:
        """Move requests that a version without workers can't answer to a version that can."""
        route = self._routes.get(queue.name)
        if route is None or not queue.outstanding or self._monitor.may_answer(queue.model):
            return
        target = route.another(queue)
        if target is not None and self._monitor.is_ready(target.model) and (moved := await queue.move_to(target)):
            log.warning("moved %d requests from %s, which has no worker, to %s", moved, queue.model, target.model)

    def _can_be_closed(self, queue: ModelQueue) -> bool:
        return queue.version not in self._monitor.versions(queue.name) and not queue.outstanding


NO_TABLE = RoutingTable()
