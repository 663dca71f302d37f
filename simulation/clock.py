"""Virtual time: an event loop whose clock jumps to the next event, so that the product's coroutines run unchanged.

It is deterministic: events with the same time run in the order in which they were scheduled.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any


class Timer:
    """A scheduled callback."""

    __slots__ = ("args", "callback")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., Any] | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None
        self.args = ()


class VirtualLoop(asyncio.AbstractEventLoop):
    """The part of an event loop that tasks, futures and asyncio.Event need, in virtual seconds. No I/O, no threads."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0  # timers that ran
        self._sequence = 0
        self._timers: list[tuple[float, int, Timer]] = []
        self._ready: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._tasks: list[asyncio.Task[Any]] = []
        self.failure: BaseException | None = None

    def at(self, when: float, callback: Callable[..., Any], *args: Any) -> Timer:
        timer = Timer(callback, args)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, timer))
        return timer

    def run_while(self, unfinished: Callable[[], bool]) -> None:
        """Run events while there are any and `unfinished()`, which is called after each event, is true."""
        timers, ready = self._timers, self._ready
        with self._as_running_loop():
            while True:
                while ready:
                    callback, args = ready.popleft()
                    callback(*args)
                if self.failure:
                    raise self.failure
                if not timers or not unfinished():
                    return
                when, _, timer = heapq.heappop(timers)
                if timer.callback is None:
                    continue
                self.now = when
                self.events += 1
                timer.callback(*timer.args)

    def end(self) -> None:
        """Cancel every task and run until all have ended."""
        self._timers.clear()
        self.failure = None
        for task in self._tasks:
            task.cancel()
        self.run_while(lambda: True)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task that runs until `end`. If an error ends it earlier, `run_while` raises the error."""
        with self._as_running_loop():
            task = self.create_task(coroutine)
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)
        return task

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self.failure = error

    # --- the interface that asyncio uses

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        self._ready.append((callback, args))

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return self.at(when, callback, *args)

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return self.at(self.now + delay, callback, *args)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failure = context.get("exception") or RuntimeError(context["message"])

    @contextlib.contextmanager
    def _as_running_loop(self) -> Iterator[None]:
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)


@contextlib.contextmanager
def virtual_time(loop: VirtualLoop) -> Iterator[None]:
    """Replace `time.monotonic` in the modules of gateway and worker by this loop's clock."""
    virtual: Any = SimpleNamespace(monotonic=loop.time)
    packages = ("smartbatch.gateway.", "smartbatch.worker.")
    modules = [module for name, module in sys.modules.items() if name.startswith(packages) and _uses_time(module)]
    for module in modules:
        vars(module)["time"] = virtual
    try:
        yield
    finally:
        for module in modules:
            vars(module)["time"] = time


def _uses_time(module: ModuleType) -> bool:
    return vars(module).get("time") is time
