"""Takes turns on a device with the other workers of this host.

A turn lasts as long as this worker has batches on the device and no other that goes first waits, so its batches overlap
as on a device of its own. fair_queue.py says who goes first, device_file.py connects the processes.

Alone on its device a worker takes no turns: it only looks, once per second while it runs batches, whether it still is.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from smartbatch.shared.settings import Settings
from smartbatch.worker.core.host_folder import host_folder
from smartbatch.worker.execution.device_file import DEVICE, DeviceFile
from smartbatch.worker.execution.fair_queue import FIELDS, MODEL, FairQueue

log = logging.getLogger(__name__)

SUFFIX = ".share1"  # with the version of the table's layout
REFRESH_S = 1.0
# A waiting worker looks whether it is its turn: first after MIN_POLL_S, then whenever it has waited POLL_SHARE longer.
MIN_POLL_S = 0.0001
MAX_POLL_S = 0.001
POLL_SHARE = 0.05
# Launching the next batch while one is computed saves about a millisecond. A batch longer than this is launched after
# the one before, so that another worker waits for one such batch, not for two.
LONG_BATCH_S = 0.05
PASS_OVER_S = 0.05  # the device stays free this long for a worker that wants it and does not take it


class DeviceShare:
    """The device thread calls `begin`; whichever thread has a batch's outputs calls `end`. Any thread may read
    `available`."""

    def __init__(self, path: Path, model: str, *, weight: int = 1, with_same_model: bool = False) -> None:
        self._path = path
        self._model = _number(model)
        self._weight = weight
        self._with_same_model = with_same_model
        self._changed = threading.Condition()
        self._in_flight = 0
        self._my_turn = False
        self._shared = False  # another worker uses the device
        self._turn_since = self._charged_at = self._batch_since = 0.0
        self._ignored_turn = 0.0  # of a paused process
        self._refresh_at = 0.0
        self.available = 1.0  # share of the device's time that this worker gets if it wants all
        self.on_paused: Callable[[], None] = lambda: None  # another worker's turn is not waited for
        self._enter(DeviceFile(path))

    def _enter(self, file: DeviceFile) -> None:
        self._file = file
        self._queue = FairQueue(file.table, file.row, self._model, self._weight)

    def close(self) -> None:
        self._file.close()

    def begin(self) -> float:
        """Wait until this worker may run a batch. Returns the seconds for which others kept it waiting."""
        with self._changed:
            now = time.monotonic()
            if now >= self._refresh_at:
                self._refresh(now)
            waited_s = self._take_turn(now) if self._shared else 0.0
            self._in_flight += 1
            return waited_s

    def end(self) -> None:
        """The outputs of the oldest batch are there."""
        with self._changed:
            self._in_flight -= 1
            if self._my_turn:
                now = time.monotonic()
                self._charge(now)
                self._queue.batch_done(now - self._batch_since, now)
                self._batch_since = now
                if not self._in_flight:
                    self._my_turn = False
                    self._queue.leave(now)
                    self._file.unlock(DEVICE)
            if not self._in_flight:
                self._changed.notify_all()

    def _take_turn(self, now: float) -> float:
        if self._my_turn:
            self._charge(now)
            if self._queue.batch_s < LONG_BATCH_S and not self._queue.must_yield():
                self._queue.start_batch(now)
                return 0.0
        self._changed.wait_for(lambda: not self._in_flight)
        return self._wait_turn()

    def _wait_turn(self) -> float:
        """Wait for the device. Returns without a turn if that of a paused process does not end."""
        started = now = time.monotonic()
        free_since = 0.0
        self._queue.arrive()
        while True:
            if self._file.try_lock(DEVICE):
                ahead = [row for row in self._queue.ahead(now) if self._file.is_alive(row)]
                free_since = free_since or now
                if not ahead or now - free_since > PASS_OVER_S:
                    self._queue.pass_over(ahead)
                    break
                self._file.unlock(DEVICE)
            else:
                free_since = 0.0
                if self._is_paused(now, started):
                    self._queue.stop_waiting()
                    return now - started
            time.sleep(min(MAX_POLL_S, max(MIN_POLL_S, POLL_SHARE * (now - started))))
            now = time.monotonic()
            self._queue.keep_waiting()
        self._my_turn = True
        self._charged_at = self._batch_since = now
        self._queue.start(now)
        return now - started

    def _is_paused(self, now: float, started: float) -> bool:
        """Return whether the present turn is one of a paused process: its memory is intact, and its batch has ended."""
        turn = self._queue.turn
        if turn != self._ignored_turn and self._queue.holder_paused(now, started):
            self._ignored_turn = turn
            self.on_paused()
            log.warning("another worker has its turn on the device and makes no progress: going on without a turn")
        return turn == self._ignored_turn

    def _charge(self, now: float) -> None:
        self._queue.charge(now - self._charged_at)
        self._charged_at = now

    def _replace_file(self) -> None:
        """Meet the others in a new file: the present one has been deleted."""
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            file = DeviceFile(self._path)
        except OSError as error:  # this worker can still compute
            log.warning("the device is not shared fairly with workers that start now: %s", error)
            return
        self._file.close()
        self._enter(file)

    def _refresh(self, now: float) -> None:
        """Look for other workers on the device."""
        self._refresh_at = now + REFRESH_S
        if not self._in_flight and not self._file.is_current():
            self._replace_file()
        others = self._file.others()
        if not self._with_same_model:
            others = [row for row in others if self._file.table[row * FIELDS + MODEL] != self._model]
        if bool(others) != self._shared:
            log.info("%s", f"takes turns on the device with {len(others)}" if others else "alone on the device")
        self._queue.others = others
        self._shared = bool(others)
        self.available = self._queue.available(now)


def join(settings: Settings, device_id: str) -> DeviceShare | None:
    """Join the workers that share this device; None if this worker uses it without regard to others.

    DEVICE_SHARE=auto leaves a CPU to the operating system, which divides it into slices much shorter than a batch.
    """
    mode = settings.device_share
    if not device_id or mode == "off" or (mode == "auto" and device_id.startswith("cpu")):
        return None
    try:
        path = host_folder() / f"{device_id}{SUFFIX}"
        return DeviceShare(path, settings.model, weight=settings.device_weight, with_same_model=mode == "on")
    except OSError as error:
        log.warning("the device is not shared fairly with other workers of this host: %s", error)
        return None


def _number(model: str) -> float:
    """Return a number above 0 that stands for the model's name."""
    return float(int.from_bytes(hashlib.sha256(model.encode()).digest()[:6], "big") + 1)
