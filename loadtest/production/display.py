"""What is going on, live: a table where there is a terminal, else a line every ten seconds."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadtest.drive.histogram import merged, percentile_ms
from loadtest.production.plan import TITLES, Phase

RECENT = 10  # seconds that percentiles and batch size are of
LINE_EVERY = 10
FIGURES = ("right/s", "p50", "p95", "p99", "batch", "queue", "refused", "errors")
WIDE = 110  # columns of a terminal with room for all


class Display:
    """A context manager. `phases` may grow while it runs."""

    def __init__(self, duration_s: int) -> None:
        self._duration_s = duration_s
        self._console = Console(stderr=True, highlight=False)
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self._rows: dict[str, tuple[str, ...]] = {}
        self._phase: Phase | None = None
        self._done = 0
        self.phases: list[Phase] = []
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=2)

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')}  {text}", markup=False, soft_wrap=True)

    def enter(self, phase: Phase, done: int) -> None:
        self._phase, self._done = phase, done
        self._recent.clear()
        self._rows[phase.name] = ("starting",)
        self.say(f"{TITLES[phase.side]}, {phase.load}: starting")

    def warm(self, counted: dict[str, Any]) -> None:
        assert self._phase
        self._rows[self._phase.name] = ("warming up", f"{counted['ok']:,}")

    def second(self, counted: dict[str, Any]) -> None:
        assert self._phase
        self._done += 1
        self._recent.append(counted)
        left_s = self._duration_s - self._done
        figures = self._figures(counted)
        self._rows[self._phase.name] = (f"{self._bar()}{_time(left_s)} left", *figures)
        if not self._console.is_terminal and self._done % LINE_EVERY == 0:
            told = ", ".join(f"{name} {figure}" for name, figure in zip(FIGURES, figures, strict=True) if figure)
            self.say(f"{TITLES[self._phase.side]}, {self._phase.load}: {_time(left_s)} left, {told}")

    def finish(self, result: dict[str, Any]) -> None:
        """Show a whole phase's figures."""
        name = f"{result['load']['kind']}-{result['load']['amount']:g}-{result['side']}"
        batch = result["mean_batch_rows"]
        self._rows[name] = (
            "done",
            f"{result['throughput_rps']:,.1f}",
            *(_ms(result[f"p{percent}_ms"]) for percent in (50, 95, 99)),
            f"{batch:.1f}" if batch else "",
            "",
            f"{result['refused']:,}",
            f"{result['errors']:,}",
        )

    def _figures(self, counted: dict[str, Any]) -> tuple[str, ...]:
        recent = list(self._recent)
        latency = merged(each["latency"] for each in recent)
        batches = sum(each.get("batches", 0) for each in recent)
        return (
            f"{counted['ok']:,}",
            *(_ms(percentile_ms(latency, percent)) for percent in (50, 95, 99)),
            f"{sum(each.get('rows', 0) for each in recent) / batches:.1f}" if batches else "",
            f"{counted['queue']:,.0f}" if "queue" in counted else "",
            f"{sum(each['refused'] for each in recent):,}",
            f"{sum(sum(each['errors'].values()) for each in recent):,}",
        )

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", caption_justify="left")
        table.add_column("", no_wrap=True)
        table.add_column("", no_wrap=True)
        for name in FIGURES:
            table.add_column(name, justify="right", no_wrap=True)
        for phase in self.phases:
            name = f"{TITLES[phase.side]} {phase.load}" if self._wide else f"{TITLES[phase.side]} {phase.load.amount:g}"
            table.add_row(name, *self._rows.get(phase.name, ("",)))
        waiting = sum(phase.name not in self._rows for phase in self.phases)
        left_s = max(0, self._duration_s - self._done) + waiting * self._duration_s
        table.caption = f"{_time(left_s)} to go, besides starts and warm-ups. Ctrl-C stops, the same command resumes."
        return table

    @property
    def _wide(self) -> bool:
        return self._console.width >= WIDE

    def _bar(self, width: int = 12) -> str:
        full = round(self._done / self._duration_s * width)
        return "█" * full + "░" * (width - full) + " " if self._wide else ""


def _time(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.3g} ms"
