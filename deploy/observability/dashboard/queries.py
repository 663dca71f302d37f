"""Queries that count nothing twice.

Every gateway shows what workers count and what Redis holds. So a worker's series are taken once (`max by (model,
worker, …)`) before they are added up, and what Redis holds is a `max by (model)`; gateways' own counts are added up.
"""

from __future__ import annotations

from smartbatch.shared.telemetry.metric_names import Metric

M = 'model=~"$model"'
PER = "[$__rate_interval]"


def gateways(metric: Metric, by: str = "model", suffix: str = "", where: str = "") -> str:
    """The rate of what gateways count, of all together."""
    return f"sum by ({by}) (rate({metric.name}{suffix}{{{M}{where}}}{PER}))"


def each_worker(metric: Metric, more: str = "", suffix: str = "", where: str = "", function: str = "rate") -> str:
    """The rate of what each worker counts, once."""
    by = f"model, worker, {more}" if more else "model, worker"
    return f"max by ({by}) ({function}({metric.name}{suffix}{{{M}{where}}}{PER}))"


def workers(metric: Metric, by: str = "model", suffix: str = "", more: str = "", where: str = "") -> str:
    """The rate of what workers count, of all together."""
    return f"sum by ({by}) ({each_worker(metric, more, suffix, where)})"


def now(metric: Metric, by: str = "model") -> str:
    """What Redis holds, or a worker says of itself."""
    return f"max by ({by}) ({metric.name}{{{M}}})"


def quantile(share: float, rate: str) -> str:
    return f"histogram_quantile({share:g}, {rate})"
