"""Source of the dashboard grafana/dashboards/smartbatch.json.

serving.py, running.py  sections and panels
queries.py              PromQL queries
panels.py               Grafana's JSON model
"""

from __future__ import annotations

import json

from smartbatch.deploy.observability.dashboard.panels import DATASOURCE, Json, layout
from smartbatch.deploy.observability.dashboard.running import FAILURES, GATEWAYS, QUEUE, WORKERS
from smartbatch.deploy.observability.dashboard.serving import BATCHES, GLANCE, REQUESTS, VERSIONS
from smartbatch.shared.telemetry import metric_names as names

FILE = "deploy/observability/grafana/dashboards/smartbatch.json"

SECTIONS = (GLANCE, VERSIONS, REQUESTS, BATCHES, QUEUE, WORKERS, FAILURES, GATEWAYS)


def text() -> str:
    return json.dumps(document(), indent=1) + "\n"


def document() -> Json:
    return {
        "uid": "smartbatch",
        "title": "SmartBatch",
        "description": "Generated from deploy/observability/dashboard",
        "tags": ["smartbatch"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_model(), _version()]},
        "annotations": {"list": [_alerts()]},
        "panels": layout(SECTIONS),
    }


def _model() -> Json:
    return _variable("model", "Model", f"label_values({names.WORKERS.name}, model)")


def _version() -> Json:
    return _variable("version", "Version", f'label_values({names.WORKERS.name}{{model=~"$model"}}, version)')


def _variable(label: str, title: str, query: str) -> Json:
    """Return a variable with the values of a label, several or all of which can be chosen."""
    every = {"text": "All", "value": "$__all"}
    return {
        "name": label,
        "label": title,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": every,
    }


def _alerts() -> Json:
    return {
        "name": "Alerts",
        "enable": True,
        "datasource": DATASOURCE,
        "expr": 'ALERTS{alertname=~"SmartBatch.*",alertstate="firing"}',
        "iconColor": "red",
        "titleFormat": "{{alertname}}",
        "textFormat": "{{model}} {{version}} {{instance}}",
        "tagKeys": "severity",
    }
