"""Source of the dashboard grafana/dashboards/smartbatch.json.

serving.py, running.py  sections and panels
queries.py              PromQL queries
panels.py               Grafana's JSON model
"""

from __future__ import annotations

import json

from smartbatch.deploy.observability.dashboard.panels import DATASOURCE, Json, layout
from smartbatch.deploy.observability.dashboard.running import FAILURES, GATEWAYS, QUEUE, WORKERS
from smartbatch.deploy.observability.dashboard.serving import BATCHES, GLANCE, REQUESTS
from smartbatch.shared.telemetry import metric_names as names

FILE = "deploy/observability/grafana/dashboards/smartbatch.json"

SECTIONS = (GLANCE, REQUESTS, BATCHES, QUEUE, WORKERS, FAILURES, GATEWAYS)


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
        "templating": {"list": [_model()]},
        "annotations": {"list": [_alerts()]},
        "panels": layout(SECTIONS),
    }


def _model() -> Json:
    query = f"label_values({names.WORKERS.name}, model)"
    every = {"text": "All", "value": "$__all"}
    return {
        "name": "model",
        "label": "Model",
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "model"},
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
        "textFormat": "{{model}} {{instance}}",
        "tagKeys": "severity",
    }
