"""Every metric, declared once: name, kind, labels, buckets and meaning."""

from __future__ import annotations

from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

DECLARED: list[Metric] = []


class Metric(msgspec.Struct, frozen=True):
    """One declaration; made into a prometheus_client metric wherever it is counted."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ("model",)
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        DECLARED.append(self)

    def counter(self, registry: CollectorRegistry) -> Counter:
        return Counter(self.name, self.help, self.labels, registry=registry)

    def gauge(self, registry: CollectorRegistry, **options) -> Gauge:
        return Gauge(self.name, self.help, self.labels, registry=registry, **options)

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        return Histogram(self.name, self.help, self.labels, buckets=self.buckets, registry=registry)


# --- counted by gateways

REQUESTS = Metric(
    "smartbatch_requests_total",
    "counter",
    "Requests by how they ended: ok, invalid, denied, rejected, timeout, cancelled, error",
    ("model", "outcome"),
)
REQUEST_SECONDS = Metric(
    "smartbatch_request_seconds", "histogram", "From a request's arrival to its outcome", buckets=SECONDS
)
PART_SECONDS = Metric(
    "smartbatch_request_part_seconds",
    "histogram",
    "Where answered requests spent their time: admit, queue, decode, batch_wait, forward, reply",
    ("model", "part"),
    SECONDS,
)
READMISSIONS = Metric("smartbatch_readmissions_total", "counter", "Requests admitted again because Redis lost them")
FLUSHES = Metric("smartbatch_admit_calls_total", "counter", "Calls that admitted requests; each carries many")
GATEWAY_BROKER_ERRORS = Metric("smartbatch_gateway_broker_errors_total", "counter", "Calls to Redis that failed")
HTTP_REFUSED = Metric(
    "smartbatch_http_refused_total",
    "counter",
    "Connections ended early, by why: idle (too many were open), write_timeout, and the codes of errors",
    ("reason",),
)
IN_FLIGHT = Metric("smartbatch_requests_in_flight", "gauge", "Requests a gateway is waiting for")

KEY_DECISIONS = ("admitted", "forbidden", "rate", "quota")
KEY_REQUESTS = Metric(
    "smartbatch_api_key_requests_total",
    "counter",
    "Requests by API key and what was decided: admitted, forbidden, rate, quota; unauthenticated without a key's name",
    ("key", "decision"),
)

# --- counted by workers

BATCHES = Metric(
    "smartbatch_batches_total",
    "counter",
    "Batches by why they were closed: full, bytes, window, quiet, deadline, drain, solo",
    ("model", "closed"),
)
BATCH_ROWS = Metric("smartbatch_batch_rows", "histogram", "Rows in a batch", buckets=ROWS_BUCKETS)
BATCH_REQUESTS = Metric("smartbatch_batch_requests", "histogram", "Requests in a batch", buckets=ROWS_BUCKETS)
QUEUE_WAIT = Metric("smartbatch_queue_wait_seconds", "histogram", "From admission to claim", buckets=SECONDS)
DECODE = Metric("smartbatch_decode_seconds", "histogram", "Decoding one request", buckets=SECONDS)
BATCH_WAIT = Metric(
    "smartbatch_batch_wait_seconds", "histogram", "From decoded to the forward's start", buckets=SECONDS
)
FORWARD = Metric("smartbatch_forward_seconds", "histogram", "One forward, with the copies to and from", buckets=SECONDS)
REQUEST_FORWARD = Metric(
    "smartbatch_request_forward_seconds_total",
    "counter",
    "Time in forwards as requests see it: one that many share counts once for each",
)
ROWS = Metric("smartbatch_rows_total", "counter", "Rows run")
ENTRIES = Metric(
    "smartbatch_entries_total",
    "counter",
    "Entries by what became of them: ok, invalid, error, expired, cancelled, lost, dead",
    ("model", "outcome"),
)
REDELIVERIES = Metric("smartbatch_redeliveries_total", "counter", "Entries taken over from dead workers")
CONVICTIONS = Metric("smartbatch_convictions_total", "counter", "Workers found dead by this one")
BISECTIONS = Metric("smartbatch_bisections_total", "counter", "Batches halved because a row in them failed")
OUT_OF_MEMORY = Metric(
    "smartbatch_out_of_memory_total", "counter", "Batches halved because the device's memory was full"
)
CEILING = Metric("smartbatch_batch_ceiling_rows", "gauge", "Rows that fit the device's memory, as far as is known")
SPEEDUP = Metric(
    "smartbatch_model_speedup_ratio",
    "gauge",
    "Forwards in the time of one eager forward, by the form that OPTIMIZE chose; measured when it was chosen",
    ("model", "form"),
)
DEVICE_BUSY = Metric("smartbatch_device_busy_seconds_total", "counter", "Time spent in forwards")
DEVICE_STARVED = Metric(
    "smartbatch_device_starved_seconds_total", "counter", "Time the device waited for a batch that a backlog filled"
)
WORKER_BROKER_ERRORS = Metric("smartbatch_worker_broker_errors_total", "counter", "Calls to Redis that failed")
LAST_PROGRESS = Metric(
    "smartbatch_worker_last_progress_timestamp_seconds", "gauge", "When the worker last finished a batch or was idle"
)

# --- read from Redis by every gateway at each scrape

QUEUE_DEPTH = Metric("smartbatch_queue_depth", "gauge", "Entries waiting to be claimed")
RUNNING = Metric("smartbatch_running", "gauge", "Entries claimed and not finished")
OPEN_BYTES = Metric("smartbatch_open_bytes", "gauge", "Payload bytes of all requests admitted and not finished")
OLDEST_WAIT = Metric("smartbatch_oldest_wait_seconds", "gauge", "How long the next entry to be claimed has waited")
DEAD_LETTERS = Metric("smartbatch_dead_letters", "gauge", "Dead letters kept")
WORKERS = Metric(
    "smartbatch_workers", "gauge", "Workers by state: loading, warming, ready, draining", ("model", "state")
)
