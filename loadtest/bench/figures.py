"""Figures and outcomes of the benchmark's rows, and the result as JSON and as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """One measured number and its goal. Without a goal it is only reported."""

    name: str
    measured: float
    unit: str
    goal: float | None = None
    sense: Literal["at least", "at most"] = "at least"

    @property
    def ratio(self) -> float | None:
        return self.measured / self.goal if self.goal else None

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.measured >= self.goal if self.sense == "at least" else self.measured <= self.goal

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "ratio": self.ratio, "met": self.met}


@dataclass
class Outcome:
    """A row's figures and, in `details`, the measurements behind them."""

    figures: list[Figure]
    details: dict[str, Any] = field(default_factory=dict)


def document(outcomes: dict[str, Outcome], failed: dict[str, str], machine: dict[str, Any], **metadata: Any) -> dict:
    """Return the result as JSON. In `totals`, `met`, `missed` and `without_goal` add up to `figures`."""
    met = [figure.met for outcome in outcomes.values() for figure in outcome.figures]
    return _without_infinity(
        {
            **metadata,
            "machine": machine,
            "totals": {
                "figures": len(met),
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
    )


def _without_infinity(value: Any) -> Any:
    """Replace infinity, the latency of requests without a response, by null: JSON has no infinity."""
    if isinstance(value, dict):
        return {name: _without_infinity(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(outcomes: dict[str, Outcome], failed: dict[str, str]) -> str:
    """Format goal, measured value, their ratio and whether the goal was met, by row."""
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
