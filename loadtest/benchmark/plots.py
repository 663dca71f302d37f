"""Draw the plots of a result from its JSON: python -m loadtest.benchmark.plots DIR/result.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from loadtest.generator.process import Load
from loadtest.report import charts
from loadtest.report.page import milliseconds

COLORS = {"baseline": charts.BASELINE, "smartbatch": charts.SMARTBATCH}
PLOTS = {  # file: (title, series, unit)
    "production_throughput.png": ("Correct responses per second", "throughput_rps", "requests/s"),
    "production_latency_p50.png": ("Median latency (p50)", "p50_ms", "latency"),
    "production_latency_p95.png": ("95th percentile of latency (p95)", "p95_ms", "latency"),
    "production_latency_p99.png": ("99th percentile of latency (p99)", "p99_ms", "latency"),
    "production_batch_size.png": ("Mean rows in a batch", "batch_rows", "rows"),
    "production_queue_depth.png": ("Requests in flight", "in_flight", "requests"),
}


def draw(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw all plots. Return the files."""
    loads = list(dict.fromkeys(Load(**phase["load"]) for phase in result["phases"]))
    return [_draw(result, loads, folder / name, *plot) for name, plot in PLOTS.items()]


def _draw(result: dict[str, Any], loads: list[Load], path: Path, title: str, series: str, unit: str) -> Path:
    machine, sent = result["machine"], result["sent"]
    subtitle = f"{result['info']['path']}, {sent['scenario']}; {machine['cpu']}, {machine['cores']} cores"
    figure, panels = charts.sheet(len(loads), title, subtitle)
    for axes, load in zip(panels, loads, strict=True):
        phases = [phase for phase in result["phases"] if Load(**phase["load"]) == load]
        is_latency = series.endswith("_ms")
        charts.latency_axis(axes) if is_latency else charts.thousands(axes.yaxis)
        for phase in phases:
            _line(axes, phase, series)
        if load.kind == "open" and series == "throughput_rps":
            axes.axhline(load.amount, color=charts.GRAY, linestyle="--", linewidth=1, label="offered")
        if not is_latency:
            axes.set_ylim(0, 1.1 * max(1.0, axes.get_ylim()[1]))
        charts.time_axis(axes, max(phase["seconds"] for phase in phases))
        axes.set_ylabel(unit)
        axes.set_title(f"{'Closed' if load.kind == 'closed' else 'Open'} loop, {load}")
        axes.legend(loc="best", fontsize=9)
    return charts.save(figure, path)


def _line(axes: Axes, phase: dict[str, Any], series: str) -> None:
    """Draw a phase's series. The label has the figure of the whole phase."""
    is_baseline, color = phase["side"] == "baseline", COLORS[phase["side"]]
    if series == "batch_rows" and is_baseline:
        points = [(point["at_s"], 1.0) for point in phase["series"]]  # the baseline runs one request at a time
    else:
        points = _known(phase, series)
    total = _total(phase, series)
    axes.plot(
        *zip(*points, strict=True) if points else ([], []),
        color=color,
        linewidth=3.4 if is_baseline and series == "in_flight" else 1.8,  # visible below the other line
        marker="o" if len(points) == 1 else "",
        label=f"{phase['title']}: {total}" if total else phase["title"],
    )
    if series == "in_flight" and (queue := _known(phase, "queue")):
        label = f"{phase['title']}: on the stream"
        axes.plot(*zip(*queue, strict=True), color=color, linestyle=":", linewidth=1.4, label=label)


def _known(phase: dict[str, Any], series: str) -> list[tuple[float, float]]:
    return [(point["at_s"], point[series]) for point in phase["series"] if point[series] is not None]


def _total(phase: dict[str, Any], series: str) -> str:
    if series.endswith("_ms"):
        return milliseconds(phase[series]) if phase[series] else "no response"
    if series == "throughput_rps":
        return f"{phase[series]:,.4g}/s"
    if series == "batch_rows":
        return "1" if phase["side"] == "baseline" else f"{phase['mean_batch_rows'] or 0:.1f}"
    return ""


if __name__ == "__main__":
    source = Path(sys.argv[1])
    print(*draw(json.loads(source.read_text()), source.parent), sep="\n")
