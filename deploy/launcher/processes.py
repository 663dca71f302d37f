"""The launcher's child processes: a watcher restarts each one that ends by itself, until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from enum import IntEnum

import msgspec

from smartbatch.deploy import startup_error
from smartbatch.deploy.launcher.child import Child
from smartbatch.deploy.launcher.screen import Screen
from smartbatch.deploy.startup_error import StartupFailure

STARTUP_EXIT = 2  # exit code of a child that can't start and has reported why
RESTART_S = (0.2, 1.0, 2.0, 5.0)  # pause before the first restart, the second, …; the last is for all later ones
STABLE_S = 30.0  # a child that ran this long is restarted with the first pause again


class Stage(IntEnum):
    """The order in which a drain stops children: the gateways first, so that no new requests arrive."""

    GATEWAY = 0
    WORKER = 1
    SENTINEL = 2
    BROKER = 3


class Exit(msgspec.Struct, frozen=True):
    """How a child ended by itself. `failure`: what it reported, if anything."""

    code: int
    failure: StartupFailure | None

    def __str__(self) -> str:
        return f"was killed by signal {-self.code}" if self.code < 0 else f"exited with code {self.code}"


class Processes:
    """All children of the launcher. `folder` is for the files in which they report why they can't start."""

    def __init__(self, folder: str, screen: Screen) -> None:
        self.folder = folder
        self._screen = screen
        self._draining = False  # nothing is restarted any more
        self._stages: dict[Child, Stage] = {}
        self._watchers: dict[Child, asyncio.Task[None]] = {}

    async def add(self, child: Child, stage: Stage, may_restart: Callable[[Child, Exit], bool]) -> None:
        """Start a child. `may_restart` decides whether it is started again after it ended by itself."""
        await child.start()
        self._stages[child] = stage
        self._watchers[child] = asyncio.create_task(self._watch(child, may_restart))

    async def stop(self, children: Iterable[Child]) -> None:
        """Have these children drain, and wait until they have ended."""
        children = [child for child in children if child in self._watchers]
        for child in children:
            child.end()
        await asyncio.gather(*(self._watchers[child] for child in children))
        for child in children:
            self._watchers.pop(child, None)
            self._stages.pop(child, None)

    async def drain(self) -> None:
        """Stop all children, one stage after the other."""
        self._draining = True
        if any(child.running for child in self._stages):
            self._screen.say("draining")
        for stage in Stage:
            await self.stop([child for child, its_stage in self._stages.items() if its_stage is stage])

    def kill(self) -> None:
        for child in self._stages:
            child.kill()

    async def _watch(self, child: Child, may_restart: Callable[[Child, Exit], bool]) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started = loop.time()
            code = await child.wait()
            child.kill()  # kills processes that it left behind, which would keep the port
            if child.ending.is_set() or self._draining:
                return
            ended = Exit(code, startup_error.read(self.folder, child.name))
            if not may_restart(child, ended):
                return
            if ended.failure:
                self._screen.error(ended.failure.text)
            if loop.time() - started > STABLE_S:
                failures = 0
            pause_s = max(child.restart_s, RESTART_S[min(failures, len(RESTART_S) - 1)])
            failures += 1
            self._screen.warn(f"{child.name} {ended}; restarting in {pause_s:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await child.ending.wait()
            if child.ending.is_set() or self._draining:
                return
            await child.start()
