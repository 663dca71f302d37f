"""Style and axes of the charts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullFormatter

from loadtest.report.page import milliseconds

BASELINE, SMARTBATCH, GRAY, INK = "#c2562d", "#1f6f8b", "#8a8f98", "#222222"
PANEL_HEIGHT, HEAD_HEIGHT = 3.7, 0.7  # inches
MAX_TIME_TICKS = 6
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e5e8",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "white",
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
}
matplotlib.rcParams.update(STYLE)


def sheet(panels: int, title: str, subtitle: str) -> tuple[Figure, list[Axes]]:
    """Make a figure with panels, two in a row, below a title and a subtitle."""
    columns = min(2, panels)
    rows = -(-panels // columns)
    height = PANEL_HEIGHT * rows + HEAD_HEIGHT
    figure, axes = plt.subplots(rows, columns, figsize=(max(7.4, 5.6 * columns), height), squeeze=False)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, 0, 1, 1 - HEAD_HEIGHT / height))
    figure.text(0.01, 1 - 0.28 / height, title, ha="left", va="center", fontsize=13, fontweight="bold", color=INK)
    figure.text(0.01, 1 - 0.52 / height, subtitle, ha="left", va="center", fontsize=9, color=GRAY)
    for unused in axes.flat[panels:]:
        unused.set_axis_off()
    return figure, list(axes.flat[:panels])


def save(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    plt.close(figure)
    return path


def latency_axis(axes: Axes) -> None:
    """Make the latency axis logarithmic, with labels at 1, 2 and 5 of each decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: milliseconds(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def thousands(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def time_axis(axes: Axes, length_s: float) -> None:
    unit, size = ("h", 3600) if length_s > 7200 else ("min", 60) if length_s > 300 else ("s", 1)
    steps = (1, 2, 5, 10, 15, 20, 30, 60)  # in units, so that ticks are whole numbers
    step = next((step for step in steps if length_s / size / step <= MAX_TIME_TICKS), length_s / size / MAX_TIME_TICKS)
    axes.xaxis.set_major_locator(MultipleLocator(step * size))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:g}"))
    axes.set_xlabel(f"time, {unit}")
    axes.set_xlim(0, length_s)
