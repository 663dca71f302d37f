"""Consoles and tables of the command line.

Rich's markup and emoji codes are off, since names and errors may contain anything. Cells of tables are never truncated,
as IDs differ at their ends.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Column, Table

from smartbatch.gateway.core.response_types import PartitionStats

PIPED_WIDTH = 240  # characters; rows of piped output should not wrap


def console(*, stderr: bool = False) -> Console:
    screen = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not screen.is_terminal and not stderr:
        screen.width = PIPED_WIDTH
    return screen


def table(*names: str, title: str | None = None) -> Table:
    columns = [Column(name, overflow="fold") for name in names]
    return Table(*columns, title=title, title_justify="left", box=None, header_style="bold")


def partition_table(partitions: Mapping[int, PartitionStats]) -> Table:
    rows = table("partition", "waiting", "running", "oldest wait (s)", "ready workers", "broker")
    for number, stats in partitions.items():
        numbers = (f"{stats.waiting:,}", f"{stats.running:,}", f"{stats.oldest_wait_s:.2f}", str(stats.workers))
        rows.add_row(str(number), *(numbers if stats.reachable else ("–",) * 4), "up" if stats.reachable else "away")
    return rows
