"""The partitions that this worker has joined: its home, the one that it claims from, and those that still have to get
replies.

With one partition there is nothing to decide, and no task runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from smartbatch.shared.broker.admin import registry
from smartbatch.shared.broker.connection.connections import Connections
from smartbatch.shared.broker.connection.primary import primaries
from smartbatch.shared.broker.queue.live_limits import LiveLimits, copy_limits
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.keys import Keys, partition_tag
from smartbatch.shared.partitions import partitions_of
from smartbatch.shared.process import tasks
from smartbatch.shared.settings import Settings
from smartbatch.worker.queue.partition import Partition
from smartbatch.worker.queue.placement import AWAY, Load, Placement

log = logging.getLogger(__name__)

INTERVAL_S = 0.5
READ_TIMEOUT_S = 0.4
READ_EVERY_S = 0.1  # for each partition: with many, all are read less often, or it would cost the brokers too much

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Partitions:
    """Owned by the worker. `on_move(partition)` is called once the worker is to claim from another one."""

    def __init__(
        self,
        settings: Settings,
        worker_id: str,
        connections: Connections,
        make: Callable[[str], Partition],
        spawn: Spawn,
    ) -> None:
        self.numbers = [0]  # of the model's partitions
        self.limits: LiveLimits | None = None  # the last that were read
        self.current: Partition
        self.on_move: Callable[[Partition], None] = lambda partition: None
        self.is_idle: Callable[[], bool] = lambda: False  # whether the worker holds no entry
        self.claims_from: Callable[[Partition], bool] = lambda partition: True
        self._settings = settings
        self._connections = connections
        self._make = make
        self._spawn = spawn
        self._placement = Placement(worker_id, settings.partition_patience)
        self._joined: dict[int, Partition] = {}
        self._known: dict[int, Load] = {}
        self._read_all_at = 0.0
        self._leaving: set[asyncio.Task[None]] = set()

    async def join_home(self) -> None:
        """Choose a home and join it. Raises BrokerUnavailable if the broker can't be reached."""
        await self._find_numbers()
        self.current = await self._join(self._place(await self._loads()))

    async def may_change(self) -> bool:
        """Whether there are several partitions, or may be later."""
        return len(self.numbers) > 1 or bool(await primaries(self._settings.broker_url).slots())

    async def run(self) -> None:
        """Move where the worker is needed. Never returns."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self._find_numbers()
                if len(self.numbers) > 1 or len(self._joined) > 1:
                    await self._move(self._place(await self._loads()))
                    self._leave_unused()
            except BrokerUnavailable as error:
                log.warning("the partitions could not be read: %s", error)

    async def leave(self) -> None:
        """Publish all replies and end all leases."""
        leaving = (partition.leave(free_name=self._alone) for partition in self._joined.values())
        await asyncio.gather(*leaving, *self._leaving)
        self._joined.clear()

    async def close(self) -> None:
        """End all leases, as far as that is possible at once."""
        await tasks.end(self._leaving)
        await asyncio.gather(*(partition.close(free_name=self._alone) for partition in self._joined.values()))

    @property
    def _alone(self) -> bool:
        """Whether the model has one partition only."""
        return len(self.numbers) == 1

    def _place(self, loads: dict[int, Load]) -> int:
        current = self.current.keys.partition if self._joined else -1
        number = self._placement.place(
            loads, time.monotonic(), current=current, idle=self.is_idle(), batch_rows=self._settings.max_batch_size
        )
        urgent = [each for each, partition in self._joined.items() if partition.urgent and partition.reachable]
        return number if number in urgent or not urgent else urgent[0]

    async def _find_numbers(self) -> None:
        slots = await primaries(self._settings.broker_url).slots()
        numbers = partitions_of(self._settings.model_id, slots, self._settings.partitions)
        if self.limits is not None:
            for number in set(numbers) - set(self.numbers):  # the cluster was resharded
                keys = self._keys(number)
                await copy_limits(self._connections.of(keys.limits), keys, self.limits)
        self.numbers = numbers

    def _keys(self, number: int) -> Keys:
        return Keys(partition_tag(self._settings.model_id, number))

    async def _loads(self) -> dict[int, Load]:
        """Read the partitions that this worker has joined, and the others if that was some time ago."""
        if len(self.numbers) == 1:
            return {self.numbers[0]: Load(True)}
        now = time.monotonic()
        wanted = [number for number in self.numbers if number in self._joined or number not in self._known]
        if now >= self._read_all_at:
            self._read_all_at, wanted = now + READ_EVERY_S * len(self.numbers), self.numbers
        read = dict(zip(wanted, await asyncio.gather(*map(self._load, wanted)), strict=True))
        self._known = {number: read.get(number) or self._known[number] for number in self.numbers}
        return self._known

    async def _load(self, number: int) -> Load:
        keys = self._keys(number)
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                workers, waiting = await registry.load(self._connections.of(keys.requests), keys)
        except (BrokerUnavailable, TimeoutError):
            return AWAY
        return Load(True, tuple(workers), waiting)

    async def _move(self, number: int) -> None:
        if number == self.current.keys.partition:
            return
        abandoned = self.current
        self.current = await self._join(number)
        log.info("claiming from partition %d of %s", number, self._settings.model_id)
        self.on_move(self.current)
        if self.current is not abandoned and not abandoned.reachable:
            abandoned.queue.abandon()

    async def _join(self, number: int) -> Partition:
        """Return a partition in which this worker has a lease."""
        if number not in self._joined:
            partition = self._make(partition_tag(self._settings.model_id, number))
            partition.join(self._spawn)
            self._joined[number] = partition
        await self._joined[number].until_leased()
        return self._joined[number]

    def _leave_unused(self) -> None:
        """Leave partitions that hold nothing of this worker, except for its home and the one that it claims from."""
        for number, partition in list(self._joined.items()):
            needed = partition is self.current or number == self._placement.home or self.claims_from(partition)
            if not needed and not partition.tracker.holds_any:
                del self._joined[number]
                task = asyncio.create_task(partition.leave())
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)
