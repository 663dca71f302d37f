"""The watchdog ends the process when it makes no progress: a wedged device call can't be interrupted, and while
the process lives its lease does too. Another worker then takes its entries, and whoever started it restarts it."""

from __future__ import annotations

import logging
import os
import threading
import time

from worker.engine import Engine

log = logging.getLogger(__name__)

EXIT_STALLED = 70
CHECK_S = 0.5


class Watchdog:
    """A thread of its own; `loop_alive` is called by the event loop at every beat."""

    def __init__(self, engine: Engine, stall_timeout_s: float) -> None:
        self._engine = engine
        self._stall_timeout_s = stall_timeout_s
        self._loop_alive_at = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="watchdog", daemon=True)

    def start(self) -> None:
        self.loop_alive()
        self._thread.start()

    def loop_alive(self) -> None:
        self._loop_alive_at = time.monotonic()

    def stop(self) -> None:
        self._stop.set()

    def _main(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(CHECK_S):
            now = time.monotonic()
            if now - last > 4 * CHECK_S:  # this process was paused itself: give everybody the time again
                self.loop_alive()
                if self._engine.working_since:
                    self._engine.working_since = now
            last = now
            working_since = self._engine.working_since
            if working_since and now - working_since > self._stall_timeout_s:
                self._end(f"the running batch made no progress for {self._stall_timeout_s:g} s")
            if now - self._loop_alive_at > self._stall_timeout_s:
                self._end(f"the event loop made no progress for {self._stall_timeout_s:g} s")

    def _end(self, why: str) -> None:
        log.critical("%s (STALL_TIMEOUT); ending this worker, its entries go to others", why)
        for handler in logging.getLogger().handlers:
            handler.flush()
        os._exit(EXIT_STALLED)
