"""Show the progress of a long command: log lines, and on a terminal a status line that is redrawn."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.status import Status

SHOW_EVERY_S = 10.0  # if the output is not a terminal

console = Console(stderr=True, highlight=False)


def log(text: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')}  {text}", markup=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """Format seconds as 1:02:03 or 2:03."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


class Progress:
    """The status line. A context manager."""

    def __init__(self) -> None:
        self._status = Status("starting", console=console)
        self._shown_at = time.monotonic()

    def __enter__(self) -> Progress:
        if console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def show(self, text: str) -> None:
        """Replace the status, one or two lines. Without a terminal, log it at most every SHOW_EVERY_S."""
        self._status.update(escape(text))
        if not console.is_terminal and time.monotonic() >= self._shown_at + SHOW_EVERY_S:
            self._shown_at = time.monotonic()
            log(text.replace("\n", "; "))
