"""GET /healthz, /readyz, /metrics, /stats: all from the observer's last look; and /openapi.json."""

from __future__ import annotations

import os
from collections import Counter as Tally

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.requests import Request
from starlette.responses import Response

from gateway.gateway import Gateway
from gateway.model_stats import describe
from gateway.response_types import Health, Readiness, Stats
from shared import metric_names as names
from shared import metric_snapshot
from shared.broker.registry import Snapshot

JSON = "application/json"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
HEALTHY = msgspec.json.encode(Health())


async def healthz(request: Request) -> Response:
    """The process answers."""
    return Response(HEALTHY, media_type=JSON)


async def readyz(request: Request) -> Response:
    """Redis is reachable and every model served has a worker that is ready."""
    gateway: Gateway = request.app.state.gateway
    ok = gateway.ready
    body = Readiness(ok, "up" if gateway.broker_up else "down", gateway.ready_workers)
    return Response(msgspec.json.encode(body), 200 if ok else 503, media_type=JSON)


async def metrics(request: Request) -> Response:
    """Prometheus text: this gateway's own counts (of all its processes), and the system's from Redis."""
    gateway: Gateway = request.app.state.gateway
    gateway.meters.settle()
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        own = CollectorRegistry()
        MultiProcessCollector(own)
    else:
        own = gateway.meters.registry
    system = CollectorRegistry()
    system.register(_System(list(gateway.observer.snapshots.values())))
    return Response(generate_latest(own) + generate_latest(system), media_type=PROMETHEUS)


class _System:
    """What the observer saw, as metrics."""

    def __init__(self, snapshots: list[Snapshot]) -> None:
        self._snapshots = snapshots

    def collect(self):
        yield from (
            self._gauge(names.QUEUE_DEPTH, lambda s: s.waiting),
            self._gauge(names.RUNNING, lambda s: s.running),
        )
        yield self._gauge(names.OPEN_BYTES, lambda s: s.open_bytes)
        yield self._gauge(names.OLDEST_WAIT, lambda s: s.oldest_wait_s)
        yield self._gauge(names.DEAD_LETTERS, lambda s: s.dead)
        yield self._gauge(names.IN_FLIGHT, lambda s: sum(int(g.get("in_flight", 0)) for g in s.gateways.values()))
        workers = GaugeMetricFamily(names.WORKERS.name, names.WORKERS.help, labels=names.WORKERS.labels)
        for snapshot in self._snapshots:
            states = Tally(report.get("state", "") for report in snapshot.workers.values())
            for state in ("loading", "warming", "ready", "draining"):
                workers.add_metric((snapshot.model, state), states[state])
        yield workers
        packed = (
            (worker_id, report["metrics"])
            for snapshot in self._snapshots
            for worker_id, report in snapshot.workers.items()
            if report.get("metrics")
        )
        yield from metric_snapshot.merge(packed)

    def _gauge(self, metric: names.Metric, value) -> GaugeMetricFamily:
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for snapshot in self._snapshots:
            family.add_metric((snapshot.model,), value(snapshot))
        return family


async def stats(request: Request) -> Response:
    """A JSON snapshot of every model: the last seconds, the queue, the workers, the gateways."""
    gateway: Gateway = request.app.state.gateway
    observer = gateway.observer
    models = {model: describe(snapshot) for model, snapshot in observer.snapshots.items()}
    body = Stats("up" if observer.fresh else "down", models)
    return Response(msgspec.json.encode(body), media_type=JSON)


async def openapi(request: Request) -> Response:
    """What is served here, as an OpenAPI 3.1 document."""
    return Response(request.app.state.openapi, media_type=JSON)
