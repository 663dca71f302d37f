"""A child process of the launcher. It has a session of its own, so Ctrl-C reaches only the launcher, which drains its
children in order. If the launcher is killed, the kernel terminates them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence

from smartbatch.shared.process.parent import end_with_parent


class Child:
    """Started and stopped by the launcher, in its event loop."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        quiet: bool = False,
        restart_s: float = 0.0,
        metrics_port: int = 0,
    ) -> None:
        self.name = name
        self.metrics_port = metrics_port  # of a worker, if it is a fixed one
        self.restart_s = restart_s  # least pause before it is started again
        self.ending = asyncio.Event()  # it is not started again
        self._command = command
        self._output = asyncio.subprocess.DEVNULL if quiet else None
        self._environ = {**os.environ, **environ}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._output,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        if self.ending.is_set():  # meanwhile
            self.end()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def wait(self) -> int:
        """Wait until the process has ended and return its exit code."""
        assert self._process is not None
        return await self._process.wait()

    def end(self) -> None:
        """Send SIGTERM, which starts a drain, and keep it from being started again."""
        self.ending.set()
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                assert self._process is not None
                self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process group, which includes the processes that this one started (GATEWAY_PROCESSES)."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
