"""Draw the plots of a result from its JSON: python -m loadtest.bench.plots bench-results/bench.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

from loadtest.bench.figures import number
from loadtest.generator.run import PERCENTILES

MET, MISSED, PLAIN = "#2a7f62", "#c0392b", "#8a8f98"
KINDS = {"in_time": MET, "late": MISSED, "rejected": PLAIN, "other": "#d9a441"}
ROLES = {"gateway": "#3b6ea5", "worker": "#2a7f62", "broker": "#d9a441", "root": PLAIN}
MAX_GOODNESS = 3.0  # times better than the goal; larger values are drawn as this


def draw(document: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the goals and every row of the result that has a plot. Return the files."""
    rows = {"S": _latency, "T": _texts, "overload": _overload, "few": _few, "growth": _growth}
    names = {"S": "latency-S.png"}
    paths = [_goals(document, folder / "goals.png")] if _judged(document) else []
    for name, draw_row in rows.items():
        if name in document["rows"]:
            paths.append(draw_row(document["rows"][name]["details"], folder / names.get(name, f"{name}.png")))
    return paths


def _judged(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    rows = document["rows"].items()
    return [(f"{name}: {each['name']}", each) for name, row in rows for each in row["figures"] if each["goal"]]


def _goals(document: dict[str, Any], path: Path) -> Path:
    """Draw each figure relative to its goal: 1 is the goal, larger is better."""
    judged = _judged(document)
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.34 * len(judged)))
    for at, (_, each) in enumerate(judged):
        axes.barh(at, min(MAX_GOODNESS, _goodness(each)), color=MET if each["met"] else MISSED, height=0.62)
        measured = "none" if each["measured"] is None else number(each["measured"])
        sign = "≥" if each["sense"] == "at least" else "≤"
        text = f"{measured} {each['unit']} ({sign} {number(each['goal'])})"
        axes.text(MAX_GOODNESS + 0.06, at, text, va="center", fontsize=8)
    axes.set_yticks(range(len(judged)), [label for label, _ in judged], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlim(0, MAX_GOODNESS)
    axes.set_xlabel("times better than the goal (3 or more is drawn as 3)")
    machine = document["machine"]
    axes.set_title(f"Measured against goals: {machine['cpu']}, {machine['cores']} cores", fontsize=10)
    return _save(figure, path)


def _goodness(figure: dict[str, Any]) -> float:
    if figure["sense"] == "at least":
        return figure["ratio"] or 0.0
    return 1 / figure["ratio"] if figure["ratio"] else (0.0 if figure["measured"] is None else MAX_GOODNESS)


def _latency(details: dict[str, Any], path: Path) -> Path:
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for connections, color in zip(("1", "64", "256"), ROLES.values(), strict=False):
        for round_, each in enumerate(details[connections]):
            label = None if round_ else f"{connections} connection{'s' * (connections != '1')}"
            axes.plot(each["latency_ms"], PERCENTILES, color=color, label=label, linewidth=1.4)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("% of requests")
    axes.set_ylim(0, 100)
    axes.set_title("S: 4 ms and 0.2 ms a row; a line for each round", fontsize=10)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return _save(figure, path)


def _texts(details: dict[str, Any], path: Path) -> Path:
    figure, (rates, latencies) = plt.subplots(1, 2, figsize=(10, 4))
    rounds = details["rounds"]
    bars = {
        "bare loop, sorted": ([each["sorted"] for each in rounds], PLAIN),
        "bare loop, one by one": ([each["single"] for each in rounds], PLAIN),
        "bare loop, order of arrival": ([details["arrival"]], PLAIN),
    }
    for connections in ("32", "64", "128"):
        bars[f"{connections} connections"] = ([each[connections] for each in rounds], MET)
        if connections in details.get("infinity", {}):
            bars[f"infinity-emb, {connections}"] = ([details["infinity"][connections]], KINDS["other"])
    for at, (measured, color) in enumerate(bars.values()):
        values = [each["texts_per_s"] for each in measured]
        rates.barh(at, sum(values) / len(values), color=color, height=0.62)
        rates.plot(values, [at] * len(values), "|", color="black")
    rates.set_yticks(range(len(bars)), list(bars), fontsize=8)
    rates.invert_yaxis()
    rates.set_xlabel("texts/s, and each round")
    for name, color in (("short_ms", MET), ("long_ms", MISSED)):
        for turn, each in enumerate(rounds):
            measured_ms, label = each["steady"][name], None if turn else name.removesuffix("_ms")
            latencies.plot(list(measured_ms), list(measured_ms.values()), marker=".", color=color, label=label)
    latencies.set_ylabel("ms")
    latencies.set_ylim(bottom=0)
    latencies.set_title("open loop at 80 % of capacity; up to 32 tokens are short", fontsize=10)
    latencies.legend()
    return _save(figure, path)


def _overload(details: dict[str, Any], path: Path) -> Path:
    devices = {"S": details, "slower": details["slower"]}
    loads = [(name, times) for name, device in devices.items() for times in device if times.isdigit()]
    figure, panels = plt.subplots(2, len(loads) // 2, figsize=(5.2 * len(loads) // 2, 7.5), squeeze=False)
    for axes, (name, times) in zip(panels.flat, loads, strict=True):
        series = devices[name][times]["over_time"]
        values = [[each[kind] for each in series] for kind in KINDS]
        labels = [kind.replace("_", " ") for kind in KINDS]
        axes.stackplot([each["at_s"] for each in series], values, labels=labels, colors=list(KINDS.values()))
        axes.axhline(devices[name]["capacity"], color="black", linestyle="--", linewidth=1, label="capacity")
        axes.axvline(details["ramp_s"], color="black", linestyle=":", linewidth=1)
        axes.set_title(f"{name}: {times} × capacity, open loop (measured right of the dotted line)", fontsize=10)
        axes.set_xlabel("intended start, s")
        axes.set_ylabel("requests/s")
    panels[0][0].legend(loc="lower right", fontsize=8)
    return _save(figure, path)


def _few(details: dict[str, Any], path: Path) -> Path:
    figure, panels = plt.subplots(1, 2, figsize=(10, 4))
    for axes, (name, sides) in zip(panels, details.items(), strict=True):
        for window, color in (("fixed", "tab:orange"), ("adaptive", "tab:blue")):
            connections = [each["connections"] for each in sides[window]]
            for part, style in (("p99_ms", ":"), ("p50_ms", "-")):
                latencies = [each[part] for each in sides[window]]
                label = f"WINDOW={window}, {part.removesuffix('_ms')}"
                axes.plot(connections, latencies, style, color=color, marker=".", label=label)
        if "device_ms" in sides:
            axes.plot(connections, sides["device_ms"], "--", color="grey", label="the device alone")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(f"{name}: connections")
        axes.set_ylabel("ms")
        axes.set_ylim(bottom=0)
    panels[1].legend(fontsize=8)
    return _save(figure, path)


def _growth(details: dict[str, Any], path: Path) -> Path:
    figure, panels = plt.subplots(2, 2, figsize=(10, 7))
    for axes, (axis, measured) in zip(panels.flat, details.items(), strict=True):
        labels = [f"{each['value']:,}" for each in measured]
        below = [0.0] * len(measured)
        for role, color in ROLES.items():
            costs = [each["cpu_s_per_1000"].get(role, 0.0) for each in measured]
            axes.bar(labels, costs, bottom=below, color=color, label="launcher" if role == "root" else role, width=0.6)
            below = [low + cost for low, cost in zip(below, costs, strict=True)]
        for at, each in enumerate(measured):
            axes.text(at, below[at], f"{each['requests_per_s']:,.0f}/s", ha="center", va="bottom", fontsize=8)
        axes.set_xlabel(axis.replace("_", " "))
        axes.set_ylabel("CPU s per 1,000 requests")
        axes.set_ylim(0, 1.12 * max(below))
    panels[0][0].legend(fontsize=8)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


if __name__ == "__main__":
    source = Path(sys.argv[1])
    print(*draw(json.loads(source.read_text()), source.parent), sep="\n")
