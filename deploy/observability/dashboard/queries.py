"""Queries that count nothing twice: what gateways and workers count is added up over them, and what Redis holds, which
every gateway shows alike, is taken once."""

from __future__ import annotations

from smartbatch.shared.telemetry.metric_names import Metric

M = 'model=~"$model"'
PER = "[$__rate_interval]"


def rate(metric: Metric, by: str = "model", suffix: str = "", where: str = "") -> str:
    """The rate of what gateways, or workers, count: of all together."""
    return f"sum by ({by}) (rate({metric.name}{suffix}{{{M}{where}}}{PER}))"


def increase(metric: Metric, by: str = "", suffix: str = "") -> str:
    """How much more they have counted, all together."""
    return f"sum{f' by ({by}) ' if by else ''}(increase({metric.name}{suffix}{{{M}}}{PER}))"


def now(metric: Metric, by: str = "model") -> str:
    """What Redis holds, or a worker says of itself."""
    return f"max by ({by}) ({metric.name}{{{M}}})"


def quantile(share: float, of: str) -> str:
    return f"histogram_quantile({share:g}, {of})"
