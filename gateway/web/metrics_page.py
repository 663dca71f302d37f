"""GET /metrics: the metrics of this gateway (all its processes), and the state of the system in Redis.

The state comes from the latest snapshots of the system monitor, so a scrape never waits for Redis. It is left out while
Redis is unavailable, since constant values would look like an idle system.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.requests import Request
from starlette.responses import Response

from smartbatch.gateway.core.metrics import GatewayMetrics
from smartbatch.gateway.http.connection_registry import ConnectionRegistry
from smartbatch.gateway.monitoring.process_metrics import remove_dead_processes
from smartbatch.gateway.monitoring.system_monitor import SystemMonitor
from smartbatch.shared import __version__
from smartbatch.shared.broker.admin.registry import Snapshot, number
from smartbatch.shared.routing import RoutingTable
from smartbatch.shared.settings import Settings
from smartbatch.shared.telemetry import metric_names as names

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class MetricsSource(Protocol):
    """The part of GatewayServices that the page uses."""

    settings: Settings
    metrics: GatewayMetrics
    monitor: SystemMonitor
    connection_registry: ConnectionRegistry

    def publish_metrics(self) -> None: ...


async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    gateway: MetricsSource = request.app.state.gateway
    gateway.publish_metrics()
    snapshots = list(gateway.monitor.snapshots.values()) if gateway.monitor.fresh else []
    # In a thread: with several processes it reads the files of all, which would block the event loop.
    text = await asyncio.to_thread(_text, gateway, gateway.monitor.broker_up, snapshots)
    return Response(text, media_type=PROMETHEUS)


def _text(gateway: MetricsSource, broker_up: bool, snapshots: list[Snapshot]) -> bytes:
    return generate_latest(
        _Families([*_own(gateway), *_constants(gateway, broker_up), *_system(gateway.monitor, snapshots)])
    )


class _Families(list[Family]):
    """A registry as prometheus_client expects it."""

    def collect(self) -> list[Family]:
        return self


def _own(gateway: MetricsSource) -> Iterable[Family]:
    """Return the metrics of this gateway."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return gateway.metrics.registry.collect()
    remove_dead_processes(folder)
    return MultiProcessCollector(None, folder).collect()


def _constants(gateway: MetricsSource, broker_up: bool) -> Iterator[Family]:
    """Yield the version, whether the broker is up, and the limits that other metrics are compared with."""
    settings = gateway.settings
    build = GaugeMetricFamily(names.BUILD_INFO.name, names.BUILD_INFO.help, labels=names.BUILD_INFO.labels)
    build.add_metric((__version__, platform.python_version()), 1)
    yield build
    values = {
        names.BROKER_UP: broker_up,
        names.REQUEST_TIMEOUT: settings.request_timeout,
        names.MAX_QUEUE: settings.max_queue,
        names.MAX_QUEUE_BYTES: settings.max_queue_bytes,
        names.MAX_CONNECTIONS: gateway.connection_registry.limit * settings.gateway_processes,
    }
    for metric, value in values.items():
        yield GaugeMetricFamily(metric.name, metric.help, value)


def _system(monitor: SystemMonitor, snapshots: list[Snapshot]) -> Iterator[Family]:
    """Yield the state of each model from the system monitor's snapshots.

    A model that is only known has one series, the backlog: an autoscaler without a value would report an error.
    """
    backlog = GaugeMetricFamily(names.BACKLOG.name, names.BACKLOG.help, labels=names.BACKLOG.labels)
    for snapshot in snapshots:
        backlog.add_metric(names.model_labels(snapshot.model), monitor.backlog_s(snapshot))
    yield backlog
    snapshots = [snapshot for snapshot in snapshots if snapshot.in_use]
    values: dict[names.Metric, Callable[[Snapshot], float]] = {
        names.QUEUE_DEPTH: lambda s: s.waiting,
        names.RUNNING: lambda s: s.running,
        names.EXECUTING: lambda s: sum(number(report.get("batch_requests")) for report in s.workers.values()),
        names.OPEN_BYTES: lambda s: s.open_bytes,
        names.OLDEST_WAIT: lambda s: s.oldest_wait_s,
        names.DEAD_LETTERS: lambda s: s.dead,
        names.IN_FLIGHT: lambda s: sum(number(report.get("in_flight")) for report in s.gateways.values()),
    }
    for metric, value in values.items():
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for snapshot in snapshots:
            family.add_metric(names.model_labels(snapshot.model), value(snapshot))
        yield family
    workers = GaugeMetricFamily(names.WORKERS.name, names.WORKERS.help, labels=names.WORKERS.labels)
    for snapshot in snapshots:
        states = Counter(report.get("state", "") for report in snapshot.workers.values())
        for state in names.WORKERS.values:
            workers.add_metric((*names.model_labels(snapshot.model), state), states[state])
    yield workers
    yield from _partitions(snapshots)
    yield from _routes(monitor.known.tables if snapshots else {})


def _routes(tables: Mapping[str, RoutingTable]) -> Iterator[Family]:
    """Yield the weights of the models that have some, and the versions of which the promotion was aborted."""
    weight, aborted = (
        GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for metric in (names.ROUTE_WEIGHT, names.PROMOTION_ABORTED)
    )
    for model, table in sorted(tables.items()):
        total = sum(table.weights.values())
        for version, value in table.weights.items():
            weight.add_metric((model, str(version)), value / total if total else 0.0)
        if table.promotion:
            aborted.add_metric((model, str(table.promotion.version)), table.promotion.state == "aborted")
    yield weight
    yield aborted


def _partitions(snapshots: list[Snapshot]) -> Iterator[Family]:
    """Yield the state of each partition of the models that have several."""
    values: dict[names.Metric, Callable[[Snapshot], float]] = {
        names.PARTITION_WAITING: lambda part: part.waiting,
        names.PARTITION_WORKERS: lambda part: len(part.ready_workers),
        names.PARTITION_UP: lambda part: part.reachable,
    }
    parts = [part for snapshot in snapshots if len(snapshot.parts) > 1 for part in snapshot.parts]
    for metric, value in values.items():
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for part in parts:
            family.add_metric((*names.model_labels(part.model), str(part.partition)), value(part))
        yield family
