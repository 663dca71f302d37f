"""Shows a promotion: one line that is kept up to date on a terminal, and elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.text import Text

from smartbatch.deploy.rollout.conditions import Counted
from smartbatch.deploy.rollout.plan import Plan, Waiting
from smartbatch.deploy.rollout.version_stats import failed, received
from smartbatch.gateway.core.latency_window import Summary
from smartbatch.shared.errors import BrokerUnavailable

EVERY_S = 10.0  # a line where there is no terminal


class ProgressLines:
    """A context manager. Lines of steps stay; the line of the present counts is replaced where that is possible."""

    def __init__(self, screen: Console, version: int) -> None:
        self._screen = screen
        self._version = version
        self._live = Live(console=screen, auto_refresh=False, transient=True) if screen.is_terminal else None
        self._shown_at = 0.0

    def __enter__(self) -> ProgressLines:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def step(self, plan: Plan, weights: Mapping[int, float]) -> None:
        shown = " ".join(f"{version}={weight:g}" for version, weight in weights.items())
        self._print(
            f"step {plan.number + 1} of {len(plan.steps)}: {plan.percent:g} % to version {self._version} ({shown})"
        )
        self._shown_at = time.monotonic()

    def look(self, plan: Plan, counted: Counted, waiting: Waiting | None) -> None:
        parts = [
            f"version {self._version}: {counts_text(counted.new)}",
            f"before: {counts_text(counted.old)}",
            *([waiting_text(waiting)] if waiting else []),
        ]
        self._update(" | ".join(parts), now=waiting is None)

    def away(self, error: BrokerUnavailable) -> None:
        self._update(f"waiting for the broker: {error}")

    def _print(self, line: str) -> None:
        self._screen.print(line, soft_wrap=True)

    def _update(self, line: str, *, now: bool = False) -> None:
        if self._live:
            self._live.update(Text("  " + line), refresh=True)
        elif now or time.monotonic() - self._shown_at >= EVERY_S:
            self._shown_at = time.monotonic()
            self._print("  " + line)


def counts_text(counted: Summary) -> str:
    p99 = counted.percentile_ms(99)
    return f"{received(counted):,} requests, {failed(counted):,} errors, p99 {f'{p99:.3g} ms' if p99 else '–'}"


def waiting_text(waiting: Waiting) -> str:
    if waiting.seconds:
        return f"{waiting.seconds:.0f} s to go"
    return f"waiting for {waiting.requests} more requests"
