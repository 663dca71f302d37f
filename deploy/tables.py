"""Tables on a terminal: plain, and nothing is ever cut off (an id is known by its end)."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table

PIPED_WIDTH = 240  # characters; whoever pipes the output wants lines, not a terminal's width


def console() -> Console:
    screen = Console()
    return screen if screen.is_terminal else Console(width=PIPED_WIDTH)


def table(*names: str, title: str | None = None) -> Table:
    columns = [Column(name, overflow="fold") for name in names]
    return Table(*columns, title=title, title_justify="left", box=None, header_style="bold")
