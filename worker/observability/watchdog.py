"""The watchdog ends the process when it makes no progress: a wedged call can't be interrupted, and while the process
lives its lease does too. Another worker then takes its entries, and whoever started it restarts it."""

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
    """A thread of its own; `loop_alive` is called by the event loop at every beat."""

    def __init__(self, engine: Engine, decoder: Decoder, stall_timeout_s: float) -> None:
        self._engine = engine
        self._decoder = decoder
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
        last = resumed_at = time.monotonic()
        while not self._stop.wait(CHECK_S):
            now = time.monotonic()
            if now - last > 4 * CHECK_S:  # this process was paused itself: give everybody the time again
                resumed_at = now
            last = now
            for who, since in (
                ("the running batch", self._engine.working_since),
                ("a decode thread", self._decoder.working_since),
                ("the event loop", self._loop_alive_at),
            ):
                if since and now - max(since, resumed_at) > self._stall_timeout_s:
                    self._stalled(who)

    def _stalled(self, who: str) -> None:
        end_process(f"{who} made no progress for {self._stall_timeout_s:g} s (STALL_TIMEOUT)", EXIT_STALLED)


def end_process(why: str, exit_code: int) -> None:
    """End it now, from any thread. Nothing is drained: what it holds goes to others."""
    log.critical("%s; ending this worker, its entries go to others", why)
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(exit_code)
