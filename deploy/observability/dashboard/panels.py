"""Declarations of panels, and their conversion to Grafana's JSON model.

https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/. Written by hand: the
builders of grafana-foundation-sdk on PyPI are for Grafana 10 and would take more lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

Json = dict[str, Any]

COLUMNS = 24
GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GRAY = "green", "yellow", "orange", "red", "blue", "purple", "#8e8e8e"
DATASOURCE = {"type": "prometheus", "uid": "smartbatch-prometheus"}


class Query(msgspec.Struct, frozen=True):
    """One query. In `legend`, {{label}} stands for the value of a label."""

    expr: str
    legend: str = ""


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One panel. `colors` are by series, `steps` map thresholds to colors, `unit` is Grafana's name of the unit."""

    kind: Literal["timeseries", "stat", "heatmap", "table"] = "timeseries"
    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    width: int = 8
    height: int = 8
    stacked: bool = False
    colors: Mapping[str, str] = {}
    dashed: Sequence[str] = ()  # names of series that are limits
    steps: Mapping[float, str] = {}
    maximum: float | None = None
    columns: Mapping[str, str] = {}  # of a table: field → title; other fields are hidden


class Section(msgspec.Struct, frozen=True):
    title: str
    panels: Sequence[Panel]


def layout(sections: Sequence[Section]) -> list[Json]:
    """Return all panels with IDs and positions, from left to right, with a new line where one does not fit."""
    found: list[Json] = []
    y = 0
    for section in sections:
        place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
        row = {"type": "row", "title": section.title, "collapsed": False, "panels": [], "gridPos": place}
        found.append({"id": len(found) + 1, **row})
        x, y, line = 0, y + 1, 0
        for panel in section.panels:
            if x + panel.width > COLUMNS:
                x, y, line = 0, y + line, 0
            place = {"h": panel.height, "w": panel.width, "x": x, "y": y}
            found.append({"id": len(found) + 1, **_panel(panel), "gridPos": place})
            x, line = x + panel.width, max(line, panel.height)
        y += line
    return found


def _panel(panel: Panel) -> Json:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "targets": [
            _target(panel.kind, letter, query) for letter, query in zip("ABCDEFG", panel.queries, strict=False)
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        **_KINDS[panel.kind](panel),
    }


def _target(kind: str, letter: str, query: Query) -> Json:
    form = {"heatmap": "heatmap", "table": "table"}.get(kind, "time_series")
    once = kind == "table"
    target = {"refId": letter, "datasource": DATASOURCE, "editorMode": "code", "expr": query.expr, "format": form}
    return {**target, "legendFormat": query.legend or "__auto", "instant": once, "range": not once}


def _defaults(panel: Panel) -> Json:
    steps: list[Json] = [{"color": "green" if panel.steps else "text", "value": None}]
    steps += [{"color": color, "value": value} for value, color in panel.steps.items()]
    defaults: Json = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.kind == "timeseries":
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 40 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    else:
        defaults["color"] = {"mode": "thresholds"}
    return defaults


def _overrides(panel: Panel) -> list[Json]:
    overrides = [
        _override(name, "color", {"mode": "fixed", "fixedColor": color}) for name, color in panel.colors.items()
    ]
    for name in panel.dashed:
        overrides.append(_override(name, "custom.lineStyle", {"fill": "dash", "dash": [10, 10]}))
        overrides.append(_override(name, "custom.fillOpacity", 0))
        overrides.append(_override(name, "custom.stacking", {"mode": "none", "group": "A"}))
    return overrides


def _override(name: str, field: str, value: Any) -> Json:
    return {"matcher": {"id": "byName", "options": name}, "properties": [{"id": field, "value": value}]}


def _timeseries(panel: Panel) -> Json:
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
    return {"options": {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}}


def _stat(panel: Panel) -> Json:
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    return {"options": {"reduceOptions": reduced, "colorMode": "value", "graphMode": "area", "textMode": "auto"}}


def _heatmap(panel: Panel) -> Json:
    return {
        "options": {
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange"},
            "filterValues": {"le": 1e-9},
            "rowsFrame": {"layout": "auto"},
            "yAxis": {"axisPlacement": "left", "unit": panel.unit},
            "legend": {"show": True},
            "tooltip": {"mode": "single", "yHistogram": False},
        }
    }


def _table(panel: Panel) -> Json:
    places = {field: place for place, field in enumerate(panel.columns)}
    shown = {"include": {"names": list(panel.columns)}}
    order = {"indexByName": places, "renameByName": dict(panel.columns)}
    changes = [
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": shown},
        {"id": "organize", "options": order},
    ]
    return {"options": {"showHeader": True, "cellHeight": "sm"}, "transformations": changes}


_KINDS = {"timeseries": _timeseries, "stat": _stat, "heatmap": _heatmap, "table": _table}
