"""Every metric, declared once: name, kind, labels and their values, buckets, who counts it, and meaning.

docs/metrics.md is made of this (`make generated`).
"""

from __future__ import annotations

from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from smartbatch.shared import errors

disable_created_metrics()

# Quantiles are read from these, so each bound, up to REQUEST_TIMEOUT's default of 30 s, is at most 1.7 times the one
# before.
LATENCY_SECONDS = (
    *(0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.5),
    *(10.0, 15.0, 20.0, 30.0, 60.0),
)
# Mostly the sums of these are read, and each worker has them.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

# gateway, worker: each counts its own, and shows it. broker: what Redis holds, which every gateway shows alike.
CountedBy = Literal["gateway", "worker", "broker"]

DECLARED: list[Metric] = []


class Metric(msgspec.Struct, frozen=True):
    """One declaration; made into a prometheus_client metric wherever it is counted. `values`: of the last label."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    counted_by: CountedBy
    help: str
    labels: tuple[str, ...] = ("model",)
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        DECLARED.append(self)

    @property
    def label_names(self) -> tuple[str, ...]:
        """With the worker's id, which is new at each start, of what workers count."""
        return (*self.labels, "worker") if self.counted_by == "worker" else self.labels

    def counter(self, registry: CollectorRegistry) -> Counter:
        return Counter(self.name, self.help, self.label_names, registry=registry)

    def gauge(self, registry: CollectorRegistry) -> Gauge:
        """Of several gateway processes behind one port, the sum over those that live."""
        return Gauge(self.name, self.help, self.label_names, registry=registry, multiprocess_mode="livesum")

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        return Histogram(self.name, self.help, self.label_names, buckets=self.buckets, registry=registry)


# --- counted by gateways

REQUESTS = Metric(
    "smartbatch_requests_total",
    "counter",
    "gateway",
    "Requests by how they ended",
    ("model", "outcome"),
    ("ok", "invalid", "denied", "rejected", "timeout", "cancelled", "error"),
)
REQUEST_SECONDS = Metric(
    "smartbatch_request_seconds",
    "histogram",
    "gateway",
    "From a request's arrival to its outcome; but for ok, an outcome appears when it first happens",
    ("model", "outcome"),
    REQUESTS.values,
    LATENCY_SECONDS,
)
PART_SECONDS = Metric(
    "smartbatch_request_part_seconds_total",
    "counter",
    "gateway",
    "Where answered requests spent their time",
    ("model", "part"),
    ("admit", "queue", "decode", "batch_wait", "forward", "reply"),
)
REQUEST_ERRORS = Metric(
    "smartbatch_request_errors_total",
    "counter",
    "gateway",
    "Requests that weren't answered, by the code of their error, as clients are told it",
    ("model", "code"),
    tuple(sorted({*errors.codes_of(errors.SmartBatchError), errors.INTERNAL})),
)
ANSWERED_ROWS = Metric("smartbatch_answered_rows_total", "counter", "gateway", "Rows of answered requests")
ANSWERED_BATCHES = Metric(
    "smartbatch_answered_batches_total",
    "counter",
    "gateway",
    "Batches, each counted where the first of its requests was answered",
)
READMISSIONS = Metric(
    "smartbatch_readmissions_total", "counter", "gateway", "Requests admitted again because Redis lost them"
)
FLUSHES = Metric(
    "smartbatch_admit_calls_total", "counter", "gateway", "Calls that admitted requests; each carries many"
)
GATEWAY_BROKER_ERRORS = Metric(
    "smartbatch_gateway_broker_errors_total", "counter", "gateway", "A gateway's calls to Redis that failed"
)
CONNECTIONS_CLOSED = Metric(
    "smartbatch_http_connections_closed_total",
    "counter",
    "gateway",
    "Connections ended early: `idle` for want of room, `write_timeout`, else by the code of the error",
    ("reason",),
    (
        "idle",
        "write_timeout",
        errors.MalformedRequest.code,
        errors.HeadTooLarge.code,
        errors.UrlTooLong.code,
        errors.HeadTimeout.code,
        errors.TooManyConnections.code,
        errors.Draining.code,
    ),
)
KEY_DECISIONS = ("admitted", "forbidden", "rate", "quota")
KEY_REQUESTS = Metric(
    "smartbatch_api_key_requests_total",
    "counter",
    "gateway",
    "Requests by API key and what was decided; `unauthenticated` has no key's name",
    ("key", "decision"),
    (*KEY_DECISIONS, "unauthenticated"),
)
CONNECTIONS = Metric("smartbatch_http_connections", "gauge", "gateway", "Open connections of clients", ())
RECEIVING_BYTES = Metric("smartbatch_receiving_bytes", "gauge", "gateway", "Bytes of bodies that have come in part", ())
LOOP_LAG = Metric(
    "smartbatch_gateway_loop_lag_seconds",
    "histogram",
    "gateway",
    "How late the event loop woke, looked at twice a second: much more than a millisecond means it is short of CPU",
    (),
    (),
    SECONDS,
)
GATEWAY_CPU = Metric(
    "smartbatch_gateway_cpu_seconds_total", "counter", "gateway", "CPU time of a gateway's processes", ()
)
GATEWAY_MEMORY = Metric(
    "smartbatch_gateway_resident_memory_bytes", "gauge", "gateway", "Memory of a gateway's processes", ()
)
BROKER_UP = Metric(
    "smartbatch_broker_up",
    "gauge",
    "gateway",
    "1 if Redis answers this gateway; while it doesn't, what Redis holds is left out",
    (),
)
BUILD_INFO = Metric("smartbatch_build_info", "gauge", "gateway", "1, with a gateway's version", ("version", "python"))
REQUEST_TIMEOUT = Metric(
    "smartbatch_request_timeout_seconds", "gauge", "gateway", "REQUEST_TIMEOUT: unanswered by then is a 504", ()
)
MAX_QUEUE = Metric("smartbatch_queue_limit", "gauge", "gateway", "MAX_QUEUE: entries of a model that may wait", ())
MAX_QUEUE_BYTES = Metric(
    "smartbatch_inflight_limit_bytes",
    "gauge",
    "gateway",
    "MAX_QUEUE_BYTES: payload bytes of a model that may be open",
    (),
)
MAX_CONNECTIONS = Metric(
    "smartbatch_http_connections_limit",
    "gauge",
    "gateway",
    "MAX_CONNECTIONS of all processes of a gateway, as far as the limit of open files allows",
    (),
)

# --- counted by workers

BATCHES = Metric(
    "smartbatch_batches_total",
    "counter",
    "worker",
    "Batches by why they were closed",
    ("model", "closed"),
    ("full", "bytes", "window", "idle", "deadline", "drain", "isolated"),
)
BATCH_ROWS = Metric("smartbatch_batch_rows", "histogram", "worker", "Rows in a batch", buckets=ROWS_BUCKETS)
BATCH_REQUESTS = Metric("smartbatch_batch_requests", "histogram", "worker", "Requests in a batch", buckets=ROWS_BUCKETS)
QUEUE_WAIT = Metric("smartbatch_queue_wait_seconds", "histogram", "worker", "From admission to claim", buckets=SECONDS)
DECODE = Metric("smartbatch_decode_seconds", "histogram", "worker", "Decoding one request", buckets=SECONDS)
BATCH_WAIT = Metric(
    "smartbatch_batch_wait_seconds", "histogram", "worker", "From decoded to the forward's start", buckets=SECONDS
)
FORWARD = Metric(
    "smartbatch_forward_seconds", "histogram", "worker", "One forward, with the copies to and from", buckets=SECONDS
)
REQUEST_FORWARD = Metric(
    "smartbatch_request_forward_seconds_total",
    "counter",
    "worker",
    "Time in forwards as requests see it: one that many share counts once for each",
)
ROWS = Metric("smartbatch_rows_total", "counter", "worker", "Rows run")
ENTRIES = Metric(
    "smartbatch_entries_total",
    "counter",
    "worker",
    "Entries by what became of them",
    ("model", "outcome"),
    ("ok", "invalid", "error", "expired", "cancelled", "lost", "dead"),
)
REDELIVERIES = Metric("smartbatch_redeliveries_total", "counter", "worker", "Entries taken over from dead workers")
DEAD_WORKERS_FOUND = Metric(
    "smartbatch_dead_workers_found_total", "counter", "worker", "Workers found dead by this one"
)
BISECTIONS = Metric("smartbatch_bisections_total", "counter", "worker", "Batches halved because a row in them failed")
OUT_OF_MEMORY = Metric(
    "smartbatch_out_of_memory_total", "counter", "worker", "Batches halved because the device's memory was full"
)
MEMORY_BATCH_LIMIT = Metric(
    "smartbatch_memory_batch_limit_rows",
    "gauge",
    "worker",
    "Rows that fit the device's memory, as far as is known; 0 while loading",
)
BATCH_LIMIT = Metric(
    "smartbatch_batch_limit_rows", "gauge", "worker", "MAX_BATCH_SIZE in force, `smartbatch limits` included"
)
WINDOW = Metric(
    "smartbatch_batch_window_seconds", "gauge", "worker", "MAX_WAIT_TIME in force, `smartbatch limits` included"
)
CAPACITY = Metric(
    "smartbatch_capacity_rows_per_second",
    "gauge",
    "worker",
    "What this worker can do with full batches, by its last forwards; 0 until it is known",
)
SPEEDUP = Metric(
    "smartbatch_model_speedup_ratio",
    "gauge",
    "worker",
    "Forwards in the time of one eager forward, by the form that OPTIMIZE chose; measured when it was chosen",
    ("model", "variant"),
)
DEVICE_BUSY = Metric("smartbatch_device_busy_seconds_total", "counter", "worker", "Time spent in forwards")
DEVICE_STARVED = Metric(
    "smartbatch_device_starved_seconds_total",
    "counter",
    "worker",
    "Time the device waited for a batch that a backlog filled, from when all of it was there",
)
DEVICE_MEMORY = Metric(
    "smartbatch_device_memory_bytes",
    "gauge",
    "worker",
    "Memory of a CUDA device: in tensors of this worker, held by its torch (with those), and all there is",
    ("model", "state"),
    ("allocated", "reserved", "total"),
)
WORKER_BROKER_ERRORS = Metric(
    "smartbatch_worker_broker_errors_total", "counter", "worker", "A worker's calls to Redis that failed"
)
LAST_PROGRESS = Metric(
    "smartbatch_worker_last_progress_timestamp_seconds",
    "gauge",
    "worker",
    "When the worker last finished a batch or was idle",
)
WORKER_START = Metric("smartbatch_worker_start_timestamp_seconds", "gauge", "worker", "When the worker started")
WORKER_CPU = Metric("smartbatch_worker_cpu_seconds_total", "counter", "worker", "CPU time of the worker, all threads")
WORKER_MEMORY = Metric("smartbatch_worker_resident_memory_bytes", "gauge", "worker", "Memory of the worker on the host")
WORKER_INFO = Metric(
    "smartbatch_worker_info",
    "gauge",
    "worker",
    "1, with what the worker serves, where, and its version",
    ("model", "model_path", "device", "dtype", "version"),
)

# --- read from Redis by every gateway, twice a second

QUEUE_DEPTH = Metric("smartbatch_queue_depth", "gauge", "broker", "Entries waiting to be claimed")
RUNNING = Metric("smartbatch_running", "gauge", "broker", "Entries claimed and not finished")
EXECUTING = Metric(
    "smartbatch_executing",
    "gauge",
    "broker",
    "Entries on a device, as workers report twice a second; part of the running",
)
OPEN_BYTES = Metric(
    "smartbatch_inflight_bytes", "gauge", "broker", "Payload bytes of all requests admitted and not finished"
)
OLDEST_WAIT = Metric(
    "smartbatch_oldest_wait_seconds", "gauge", "broker", "How long the next entry to be claimed has waited"
)
DEAD_LETTERS = Metric("smartbatch_dead_letters", "gauge", "broker", "Dead letters kept")
IN_FLIGHT = Metric("smartbatch_requests_in_flight", "gauge", "broker", "Requests that gateways wait for, all together")
WORKERS = Metric(
    "smartbatch_workers",
    "gauge",
    "broker",
    "Workers with a lease, by state",
    ("model", "state"),
    ("loading", "warming", "ready", "draining"),
)
