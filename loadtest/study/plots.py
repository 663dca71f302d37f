"""Draw the plots of a study from its JSON: python -m loadtest.study.plots DIR/study.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from loadtest.report import charts
from loadtest.report.page import milliseconds

HEAT_MAP, PARETO = "study_heatmap.png", "study_pareto.png"


def draw(result: dict[str, Any], folder: Path) -> list[Path]:
    return [_heat_map(result, folder / HEAT_MAP), _pareto(result, folder / PARETO)]


def _subtitle(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return f"{result['parameters']['model']}, {result['sent']}; {machine['cpu']}, {machine['cores']} cores"


def _heat_map(result: dict[str, Any], path: Path) -> Path:
    """Draw a panel for each pair of workers and decode threads."""
    groups = list(dict.fromkeys(_group(trial) for trial in result["trials"]))
    objective = milliseconds(result["parameters"]["p99_ms"])
    title = f"Requests/s with a p99 of at most {objective}"
    figure, panels = charts.sheet(len(groups), title, _subtitle(result))
    most = max((trial["best"]["throughput_rps"] for trial in result["trials"] if trial["best"]), default=1.0)
    for axes, group in zip(panels, groups, strict=True):
        _grid(axes, result, group, most)
        workers, threads = group
        axes.set_title(f"{workers} worker{'s' * (workers > 1)}, DECODE_THREADS={threads}" if len(groups) > 1 else "")
    return charts.save(figure, path)


def _group(trial: dict[str, Any]) -> tuple[int, int]:
    return trial["settings"]["workers"], trial["settings"]["DECODE_THREADS"]


def _grid(axes: Axes, result: dict[str, Any], group: tuple[int, int], most: float) -> None:
    sizes, waits = result["space"]["MAX_BATCH_SIZE"], result["space"]["MAX_WAIT_TIME"]
    colors = plt.get_cmap("YlGnBu")
    for trial in result["trials"]:
        if _group(trial) != group:
            continue
        settings = trial["settings"]
        x, y = waits.index(settings["MAX_WAIT_TIME"]), sizes.index(settings["MAX_BATCH_SIZE"])
        reached = trial["best"]["throughput_rps"] if trial["best"] else 0.0
        share = reached / most
        face = "#f0d9d2" if trial["pruned"] or not reached else colors(0.08 + 0.8 * share)
        is_best = settings == result["recommended"]
        square = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="white")
        if is_best:
            square.set(edgecolor=charts.BASELINE, linewidth=3, zorder=3)
        axes.add_patch(square)
        text = "pruned" if trial["pruned"] else f"{reached:,.4g}" if reached else "too slow"
        ink = "white" if share > 0.6 and not trial["pruned"] else charts.INK
        axes.text(x, y, text, ha="center", va="center", fontsize=8, color=ink, zorder=4)
    axes.set_xlim(-0.5, len(waits) - 0.5)
    axes.set_ylim(-0.5, len(sizes) - 0.5)
    axes.set_xticks(range(len(waits)), [f"{wait * 1000:g}" for wait in waits])
    axes.set_yticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_xlabel("MAX_WAIT_TIME, ms")
    axes.set_ylabel("MAX_BATCH_SIZE")
    axes.grid(False)


def _pareto(result: dict[str, Any], path: Path) -> Path:
    """Draw every level of every trial, and the Pareto front."""
    p99_ms = result["parameters"]["p99_ms"]
    figure, (axes,) = charts.sheet(1, "Throughput and latency of every level", _subtitle(result))
    charts.latency_axis(axes)
    charts.thousands(axes.xaxis)
    points = [
        (level["throughput_rps"], level["p99_ms"], trial["settings"]["MAX_BATCH_SIZE"])
        for trial in result["trials"]
        for level in trial["levels"]
        if level["p99_ms"] and level["throughput_rps"]
    ]
    sizes = result["space"]["MAX_BATCH_SIZE"]
    colors = plt.get_cmap("viridis_r")
    for number, size in enumerate(sizes):
        points_of_size = [(rate, p99) for rate, p99, batch_size in points if batch_size == size]
        color = colors(0.1 + 0.85 * number / max(1, len(sizes) - 1))
        if points_of_size:
            label = f"MAX_BATCH_SIZE {size}"
            axes.scatter(*zip(*points_of_size, strict=True), s=20, color=color, label=label, zorder=3)
    front = pareto_front([(rate, p99) for rate, p99, _ in points])
    if front:
        axes.plot(*zip(*front, strict=True), color=charts.INK, linewidth=1.2, label="Pareto front", zorder=2)
    axes.axhline(p99_ms, color=charts.BASELINE, linestyle="--", linewidth=1.2)
    axes.annotate(
        f"objective: {milliseconds(p99_ms)}",
        (0, p99_ms),
        xycoords=("axes fraction", "data"),
        xytext=(4, 4),
        textcoords="offset points",
        color=charts.BASELINE,
        fontsize=9,
    )
    if result["reached"]:
        chosen = (result["reached"]["throughput_rps"], result["reached"]["p99_ms"])
        axes.scatter(*chosen, s=130, facecolor="none", edgecolor=charts.BASELINE, linewidth=2, zorder=4, label="chosen")
    axes.set_xlim(left=0)
    axes.set_xlabel("requests/s")
    axes.set_ylabel("p99")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return charts.save(figure, path)


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (rate, latency) that no other point beats in both, by ascending rate."""
    front: list[tuple[float, float]] = []
    for rate, latency in sorted(points, key=lambda point: (-point[0], point[1])):
        if not front or latency < front[-1][1]:
            front.append((rate, latency))
    return front[::-1]


if __name__ == "__main__":
    source = Path(sys.argv[1])
    print(*draw(json.loads(source.read_text()), source.parent), sep="\n")
