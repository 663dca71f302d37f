"""The watchdog ends the process when it makes no progress.

A stuck call can't be interrupted, and while the process lives its lease does too. Once it has ended, another worker
takes its entries, and the process's supervisor restarts it.
"""

from __future__ import annotations

import logging
import os
import threading
import time

from smartbatch.worker.execution.decoding import Decoder
from smartbatch.worker.execution.engine import Engine

log = logging.getLogger(__name__)

EXIT_STALLED = 70
EXIT_DEVICE_LOST = 71
CHECK_S = 0.5


class Watchdog:
    """A thread of its own. The event loop calls `loop_alive` at every heartbeat interval."""

    def __init__(self, engine: Engine, decoder: Decoder, stall_timeout_s: float) -> None:
        self._engine = engine
        self._decoder = decoder
        self._stall_timeout_s = stall_timeout_s
        self._loop_alive_at = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self.loop_alive()
        self._thread.start()

    def loop_alive(self) -> None:
        self._loop_alive_at = time.monotonic()

    def stop(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        last = resumed_at = time.monotonic()
        while not self._stop.wait(CHECK_S):
            now = time.monotonic()
            if now - last > 4 * CHECK_S:  # the process itself was paused: start the timeouts again
                resumed_at = now
            last = now
            for what, since in (
                ("the running batch", self._engine.working_since),
                ("a decode thread", self._decoder.working_since),
                ("the event loop", self._loop_alive_at),
            ):
                if since and now - max(since, resumed_at) > self._stall_timeout_s:
                    end_process(
                        f"{what} made no progress for {self._stall_timeout_s:g} s (STALL_TIMEOUT)", EXIT_STALLED
                    )


def end_process(why: str, exit_code: int) -> None:
    """End the process now, from any thread, without draining: its entries go to other workers."""
    log.critical("%s; ending this worker, its entries go to other workers", why)
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(exit_code)
