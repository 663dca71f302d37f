"""What the study is doing, and how long it will still take."""

from __future__ import annotations

import time

from rich.console import Console
from rich.status import Status

from loadtest.drive.charts import milliseconds
from loadtest.study.levels import Level
from loadtest.study.space import Settings


class Progress:
    """A context manager. Lines for what is done; on a terminal also what is going on."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status = Status("starting", console=self._console)
        self._trials = self._done = 0
        self._spent_s: list[float] = []
        self._entered = 0.0
        self._best = 0.0

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def say(self, text: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')}  {text}", markup=False, soft_wrap=True)

    def begin(self, trials: int, done: int) -> None:
        self._trials, self._done = trials, done
        if done:
            self.say(f"going on: {done} of {trials} settings were tried before")

    def enter(self, settings: Settings) -> None:
        self._entered = time.monotonic()
        self._settings = settings
        self._show("applying")

    def level(self, measured: Level) -> None:
        self._show(_told(measured))

    def leave(self, settings: Settings, reached: Level | None, *, pruned: bool) -> None:
        self._done += 1
        self._spent_s.append(time.monotonic() - self._entered)
        came = "hopeless, given up" if pruned else _told(reached) if reached else "not within the latency at any load"
        better = reached is not None and not pruned and reached.throughput_rps > self._best
        if better and reached:
            self._best = reached.throughput_rps
        self.say(f"{self._done}/{self._trials}  {settings}  {came}{'  best so far' if better else ''}")

    def _show(self, text: str) -> None:
        left = ""
        if self._spent_s:
            left_s = sum(self._spent_s) / len(self._spent_s) * (self._trials - self._done)
            left = f", about {left_s / 60:.0f} min to go"
        self._status.update(f"{self._done + 1}/{self._trials}{left}: {self._settings}: {text}")


def _told(measured: Level) -> str:
    p99 = milliseconds(measured.p99_ms) if measured.p99_ms else "–"
    return f"{measured.throughput_rps:,.1f} req/s, p99 {p99} at {measured.load:g} users"
