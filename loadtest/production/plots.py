"""The plots of a result, made from its JSON alone: python -m loadtest.production.plots DIR/result.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from loadtest.drive import charts
from loadtest.drive.order import Load

COLORS = {"baseline": charts.BASELINE, "smartbatch": charts.SMARTBATCH}
PLOTS = {  # file: (title, the series, its unit)
    "production_throughput.png": ("Right answers per second", "throughput_rps", "requests/s"),
    "production_latency_p50.png": ("Median latency (p50)", "p50_ms", "latency"),
    "production_latency_p95.png": ("95th percentile of latency (p95)", "p95_ms", "latency"),
    "production_latency_p99.png": ("99th percentile of latency (p99)", "p99_ms", "latency"),
    "production_batch_size.png": ("Rows in a batch, on average", "batch_rows", "rows"),
    "production_queue_depth.png": ("Requests that wait for their answer", "in_flight", "requests"),
}


def draw(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw all of them. Returns the files."""
    loads = list(dict.fromkeys(Load(**phase["load"]) for phase in result["phases"]))
    return [_draw(result, loads, folder / name, *what) for name, what in PLOTS.items()]


def subtitle(result: dict[str, Any]) -> str:
    machine, sent = result["machine"], result["sent"]
    return f"{result['info']['path']}, {sent['scenario']}; {machine['cpu']}, {machine['cores']} cores"


def _draw(result: dict[str, Any], loads: list[Load], path: Path, title: str, series: str, unit: str) -> Path:
    figure, panels = charts.sheet(len(loads), title, subtitle(result))
    for axes, load in zip(panels, loads, strict=True):
        phases = [phase for phase in result["phases"] if Load(**phase["load"]) == load]
        is_latency = series.endswith("_ms")
        charts.latency_axis(axes) if is_latency else charts.thousands(axes.yaxis)
        for phase in phases:
            _line(axes, phase, series)
        if series == "in_flight":
            _queue(axes, phases)
        if load.kind == "open" and series == "throughput_rps":
            axes.axhline(load.amount, color=charts.GRAY, linestyle="--", linewidth=1, label="asked for")
        if not is_latency:
            axes.set_ylim(0, 1.1 * max(1.0, axes.get_ylim()[1]))
        charts.time_axis(axes, max(phase["seconds"] for phase in phases))
        axes.set_ylabel(unit)
        axes.set_title(f"{'Closed' if load.kind == 'closed' else 'Open'} loop, {load}")
        axes.legend(loc="best", fontsize=9)
    return charts.save(figure, path)


def _line(axes: Axes, phase: dict[str, Any], series: str) -> None:
    """A phase's series; its label says what the whole phase came to."""
    whole = _whole(phase, series)
    points = [(point["at_s"], _value(phase, point, series)) for point in phase["series"]]
    known = [(at_s, value) for at_s, value in points if value is not None]
    axes.plot(
        [at_s for at_s, _ in known],
        [value for _, value in known],
        color=COLORS[phase["side"]],
        linewidth=3.4 if phase["side"] == "baseline" and series == "in_flight" else 1.8,  # seen under the other
        marker="o" if len(known) == 1 else "",
        label=f"{phase['title']}: {whole}" if whole else phase["title"],
    )


def _value(phase: dict[str, Any], point: dict[str, Any], series: str) -> float | None:
    """The baseline runs one request at a time."""
    return 1.0 if series == "batch_rows" and phase["side"] == "baseline" else point[series]


def _whole(phase: dict[str, Any], series: str) -> str:
    if series.endswith("_ms"):
        return charts.milliseconds(phase[series]) if phase[series] else "no answer"
    if series == "throughput_rps":
        return f"{phase[series]:,.4g}/s"
    if series == "batch_rows":
        return "1" if phase["side"] == "baseline" else f"{phase['mean_batch_rows'] or 0:.1f}"
    return ""


def _queue(axes: Axes, phases: list[dict[str, Any]]) -> None:
    """Of those that wait, what is on SmartBatch's stream; the others ride in a batch, or are on their way."""
    for phase in phases:
        known = [(point["at_s"], point["queue"]) for point in phase["series"] if point["queue"] is not None]
        if known:
            times, depths = zip(*known, strict=True)
            label = f"{phase['title']}: on the stream"
            axes.plot(times, depths, color=COLORS[phase["side"]], linestyle=":", linewidth=1.4, label=label)


if __name__ == "__main__":
    source = Path(sys.argv[1])
    print(*draw(json.loads(source.read_text()), source.parent), sep="\n")
