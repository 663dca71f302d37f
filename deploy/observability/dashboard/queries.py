"""PromQL queries. Counters of gateways and workers are summed. Values from Redis, which every gateway exports, are
counted once, by their maximum."""

from __future__ import annotations

from smartbatch.shared.telemetry.metric_names import Metric

M = 'model=~"$model",version=~"$version"'
EACH = "model, version"  # a series for each version of a model
ID = "{{model}}@{{version}}"  # its legend
PER = "[$__rate_interval]"


def rate(metric: Metric, by: str = EACH, suffix: str = "", where: str = "") -> str:
    """Return the rate of a counter, summed over gateways or workers."""
    return f"sum by ({by}) (rate({metric.name}{suffix}{{{M}{where}}}{PER}))"


def increase(metric: Metric, by: str = "", suffix: str = "") -> str:
    """Return the increase of a counter, summed over gateways or workers."""
    return f"sum{f' by ({by}) ' if by else ''}(increase({metric.name}{suffix}{{{M}}}{PER}))"


def now(metric: Metric, by: str = EACH) -> str:
    """Return the value of a gauge from Redis or of a worker."""
    return f"max by ({by}) ({metric.name}{{{M}}})"


def quantile(share: float, of: str) -> str:
    return f"histogram_quantile({share:g}, {of})"
