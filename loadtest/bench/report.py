"""The result as JSON and as a table."""

from __future__ import annotations

import math
from typing import Any

from loadtest.bench.figures import Figure, Outcome


def document(outcomes: dict[str, Outcome], failed: dict[str, str], machine: dict[str, Any], **facts: Any) -> dict:
    """All of it. `totals` counts figures: those met, missed and without a goal add up to `figures`."""
    figures = [figure for outcome in outcomes.values() for figure in outcome.figures]
    met = [figure.met for figure in figures]
    whole = {
        **facts,
        "machine": machine,
        "totals": {
            "figures": len(figures),
            "met": met.count(True),
            "missed": met.count(False),
            "without_goal": met.count(None),
            "rows_failed": len(failed),
        },
        "rows": {
            name: {"figures": [figure.as_json() for figure in outcome.figures], "details": outcome.details}
            for name, outcome in outcomes.items()
        },
        "failed": failed,
    }
    return _finite(whole)


def _finite(value: Any) -> Any:
    """JSON has no infinity: what was never answered has no latency."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(outcomes: dict[str, Outcome], failed: dict[str, str]) -> str:
    """Goal, measured, ratio (measured to goal) and whether it was met, by row."""
    lines = [("", "", "goal", "measured", "ratio", "")]
    for name, outcome in outcomes.items():
        for index, figure in enumerate(outcome.figures):
            lines.append(("" if index else name, figure.name, *_cells(figure)))
    lines += [(name, f"failed: {why}", "", "", "", "") for name, why in failed.items()]
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    aligned = ("<", "<", ">", ">", ">", "<")
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, aligned, widths, strict=True)).rstrip()
        for line in lines
    )


def _cells(figure: Figure) -> tuple[str, str, str, str]:
    measured = f"{number(figure.measured)} {figure.unit}".rstrip()
    if figure.goal is None or figure.ratio is None:
        return "", measured, "", ""
    goal = f"{'≥' if figure.sense == 'at least' else '≤'} {number(figure.goal)}"
    return goal, measured, f"{figure.ratio:.2f}", "met" if figure.met else "MISSED"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
