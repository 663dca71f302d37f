"""Commands to the launcher: takes them from the broker, carries them out, and publishes what the launcher runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import Sequence

from smartbatch.deploy.launcher.loading import Loading, entries_of
from smartbatch.deploy.launcher.model_workers import HOST
from smartbatch.deploy.launcher.models import Models
from smartbatch.deploy.launcher.screen import Screen
from smartbatch.deploy.launcher.unloading import Unloading
from smartbatch.deploy.models.repository import Repository
from smartbatch.shared.broker.admin import launchers, registry
from smartbatch.shared.broker.admin.launchers import Command, CommandQueue, Event, Launcher, Load, Unload
from smartbatch.shared.broker.connection.multiplexed import BLOCK_S, MultiplexedConnection
from smartbatch.shared.errors import BrokerUnavailable, ModelCommandFailed, SmartBatchError
from smartbatch.shared.keys import LAUNCHERS, MODELS, check_model_name, model_id, split_model_id
from smartbatch.shared.process import tasks

log = logging.getLogger(__name__)

REGISTER_EVERY_S = 1.0
RETRY_S = 0.5
CLOSE_S = 2.0


class Commands:
    """Owned by the launcher, from when all is ready until it drains."""

    def __init__(self, models: Models, repository: Repository | None, screen: Screen, *, any_path: bool) -> None:
        """`any_path`: whether models from anywhere may be loaded, which are code, or only those of the repository."""
        url = models.settings.broker_url
        self.id = f"{HOST[:40]}-{os.getpid()}-{uuid.uuid4().hex[:4]}"
        self._models = models
        self._repository = repository
        self._any_path = any_path
        self._screen = screen
        self._connection = MultiplexedConnection(url, LAUNCHERS)
        self._blocking = MultiplexedConnection(url, LAUNCHERS, block_s=BLOCK_S)
        self._queue = CommandQueue(self._connection, self._blocking, self.id)
        self._running: dict[str, asyncio.Task[None]] = {}  # by command ID
        self._busy: set[str] = set()  # names of models with a command in progress

    async def run(self) -> None:
        """Never returns."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_registered())
            group.create_task(self._take())

    async def close(self) -> None:
        """End the commands in progress, as failed, and deregister, as far as the broker can be reached."""
        with contextlib.suppress(TimeoutError, BrokerUnavailable):
            async with asyncio.timeout(CLOSE_S):
                await tasks.end(list(self._running.values()))
                await self._queue.unregister()
        self._connection.close()
        self._blocking.close()

    async def _keep_registered(self) -> None:
        while True:
            with contextlib.suppress(BrokerUnavailable):
                await self._models.observe_all()
            with contextlib.suppress(BrokerUnavailable):
                await self._register()
            await asyncio.sleep(REGISTER_EVERY_S)

    async def _register(self) -> None:
        served = tuple(model.registration for model in self._models)
        folder, unloaded = "", ()
        if self._repository:
            folder = str(self._repository.folder.absolute())
            unloaded = tuple(each for each in await self._in_repository() if not self._models.get(each))
        await self._queue.register(Launcher(self.id, HOST, os.getpid(), served, folder, unloaded, tuple(self._running)))

    async def _in_repository(self) -> list[str]:
        assert self._repository is not None
        try:
            return await asyncio.to_thread(self._repository.model_ids)
        except OSError as error:
            log.warning("reading the model repository failed: %s", error)
            return []

    async def _take(self) -> None:
        while True:
            try:
                command = await self._queue.next()
            except BrokerUnavailable:
                await asyncio.sleep(RETRY_S)
                continue
            if command is not None:
                self._running[command.id] = asyncio.create_task(self._carry_out(command))
                with contextlib.suppress(BrokerUnavailable):
                    await self._register()

    async def _carry_out(self, command: Command) -> None:
        progress = Progress(self._queue, command.id, self._screen)
        try:
            event = Event("done", await self._run(command.action, progress))
        except BrokerUnavailable as error:
            event = Event("failed", f"{error}; repeat the command")
        except SmartBatchError as error:
            event = Event("failed", str(error))
        except asyncio.CancelledError:
            event = Event("failed", "the launcher is stopping")
        except Exception:
            log.exception("a command failed")
            event = Event("failed", "internal error; see the log of the launcher")
        try:
            await progress.end(event)
        finally:
            del self._running[command.id]
        with contextlib.suppress(BrokerUnavailable):
            await self._register()

    async def _run(self, action: Load | Unload, progress: Progress) -> str:
        name = check_model_name(action.model)
        if name in self._busy:
            raise ModelCommandFailed(f"another command about the model {name} is in progress; wait until it has ended")
        self._busy.add(name)
        try:
            if isinstance(action, Load):
                entries = entries_of(action, self._models.settings, self._repository, any_path=self._any_path)
                by_policy = not action.version and "model_path" not in action.settings
                loading = Loading(self._models, self._others, self.id, progress.say)
                return await loading.run(entries, missing_only=by_policy)
            versions = await self._versions(action)
            return await Unloading(self._models, action, versions, self.id, progress.say).run()
        finally:
            self._busy.remove(name)

    async def _others(self) -> Sequence[Launcher]:
        await self._register()
        return [each for each in await launchers.find(self._connection) if each.id != self.id]

    async def _versions(self, action: Unload) -> list[int]:
        """Return the versions that a command is about: without one, those that run here, or else all announced ones,
        of which the workers may have ended."""
        if action.version:
            return [action.version]
        announced = await registry.models(self._models.connections.of(MODELS))
        for known in ([model.id for model in self._models], announced):
            if found := [version for name, version in map(split_model_id, known) if name == action.model]:
                return sorted(found)
        here = ", ".join(model.id for model in self._models) or "none"
        raise ModelCommandFailed(f"{model_id(action.model)} is not loaded; models of this launcher: {here}")


class Progress:
    """What is reported of one command. While the broker is away the events wait here."""

    def __init__(self, queue: CommandQueue, command_id: str, screen: Screen) -> None:
        self._queue = queue
        self._command_id = command_id
        self._screen = screen
        self._waiting: list[Event] = []
        self._count = 0
        self._last = ""

    async def say(self, text: str) -> None:
        if text != self._last:
            self._last = text
            self._screen.say(text)
            self._add(Event("progress", text))
        with contextlib.suppress(BrokerUnavailable):
            await self._flush()

    async def end(self, event: Event) -> None:
        """Report the last event, as soon as the broker takes it."""
        self._screen.error(event.text) if event.kind == "failed" else self._screen.say(event.text)
        self._add(event)
        while True:
            try:
                return await self._flush()
            except BrokerUnavailable:
                await asyncio.sleep(RETRY_S)

    def _add(self, event: Event) -> None:
        self._count += 1
        self._waiting.append(Event(event.kind, event.text, self._count))

    async def _flush(self) -> None:
        while self._waiting:
            await self._queue.report(self._command_id, self._waiting[0])
            del self._waiting[0]
