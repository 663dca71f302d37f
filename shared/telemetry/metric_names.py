"""The declaration of every metric: name, kind, exporter, meaning, labels, values of the last label, buckets.

The tables of docs/metrics.md are generated from it (`make generated`).
"""

from __future__ import annotations

from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from smartbatch.shared import errors
from smartbatch.shared.keys import split_model_id

disable_created_metrics()

# For quantiles: up to 30 s, REQUEST_TIMEOUT's default, each bound is at most 1.7 times the one before.
LATENCY_SECONDS = (
    *(0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.5),
    *(10.0, 15.0, 20.0, 30.0, 60.0),
)
# Coarser, since each worker has these series and mostly their sums are used.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

# Gateways and workers export their own counts. `broker` metrics are read from Redis; every gateway exports the same.
CountedBy = Literal["gateway", "worker", "broker"]

DECLARED: list[Metric] = []

MODEL = ("model", "version")  # the labels of every metric of a model: its name and its version


class Metric(msgspec.Struct, frozen=True):
    """One declaration, from which each exporter creates a prometheus_client metric. `values` are of the last label."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    counted_by: CountedBy
    help: str
    labels: tuple[str, ...] = MODEL
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        DECLARED.append(self)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels of the exported metric. Worker metrics also have the worker's ID, which is new at each start."""
        return (*self.labels, "worker") if self.counted_by == "worker" else self.labels

    def counter(self, registry: CollectorRegistry) -> Counter:
        return Counter(self.name, self.help, self.label_names, registry=registry)

    def gauge(self, registry: CollectorRegistry) -> Gauge:
        """Create a gauge. Several gateway processes behind one port export the sum over the living ones."""
        return Gauge(self.name, self.help, self.label_names, registry=registry, multiprocess_mode="livesum")

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        return Histogram(self.name, self.help, self.label_names, buckets=self.buckets, registry=registry)


def model_labels(model: str) -> tuple[str, str]:
    """Return the values of MODEL for a model's ID."""
    name, version = split_model_id(model)
    return name, str(version)


# --- exported by gateways

REQUESTS = Metric(
    "smartbatch_requests_total",
    "counter",
    "gateway",
    "Requests by outcome",
    (*MODEL, "outcome"),
    ("ok", "invalid", "denied", "rejected", "timeout", "cancelled", "error"),
)
REQUEST_SECONDS = Metric(
    "smartbatch_request_seconds",
    "histogram",
    "gateway",
    "Time from a request's arrival to its outcome; except for ok, a series appears with its first request",
    (*MODEL, "outcome"),
    REQUESTS.values,
    LATENCY_SECONDS,
)
PART_SECONDS = Metric(
    "smartbatch_request_part_seconds_total",
    "counter",
    "gateway",
    "Time that answered requests spent in each part",
    (*MODEL, "part"),
    ("admit", "queue", "decode", "batch_wait", "forward", "reply"),
)
REQUEST_ERRORS = Metric(
    "smartbatch_request_errors_total",
    "counter",
    "gateway",
    "Requests without a result, by error code",
    (*MODEL, "code"),
    tuple(sorted({*errors.codes_of(errors.SmartBatchError), errors.INTERNAL})),
)
ANSWERED_ROWS = Metric("smartbatch_answered_rows_total", "counter", "gateway", "Rows of answered requests")
ANSWERED_BATCHES = Metric(
    "smartbatch_answered_batches_total",
    "counter",
    "gateway",
    "Batches of answered requests, each counted by the gateway that answered its first request",
)
READMISSIONS = Metric(
    "smartbatch_readmissions_total", "counter", "gateway", "Requests admitted again after Redis lost them"
)
SHADOW_COPIES = Metric(
    "smartbatch_shadow_copies_total",
    "counter",
    "gateway",
    "Copies of requests for a shadow version: its answer was the same as the real one or different in its classes or "
    "values, there was none, or no copy was sent because too many were in the queue",
    (*MODEL, "outcome"),
    ("same", "different", "failed", "skipped"),
)
FLUSHES = Metric(
    "smartbatch_admit_calls_total", "counter", "gateway", "Calls to Redis that admitted requests, several at once"
)
GATEWAY_BROKER_ERRORS = Metric(
    "smartbatch_gateway_broker_errors_total", "counter", "gateway", "Failed calls of the gateway to Redis"
)
CONNECTIONS_CLOSED = Metric(
    "smartbatch_http_connections_closed_total",
    "counter",
    "gateway",
    "Connections closed by the gateway: `idle` at MAX_CONNECTIONS, `write_timeout`, otherwise by error code",
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
    "Requests by name of the API key and decision; `key` is empty for `unauthenticated`",
    ("key", "decision"),
    (*KEY_DECISIONS, "unauthenticated"),
)
CONNECTIONS = Metric("smartbatch_http_connections", "gauge", "gateway", "Open client connections", ())
RECEIVING_BYTES = Metric("smartbatch_receiving_bytes", "gauge", "gateway", "Bytes received of incomplete bodies", ())
LOOP_LAG = Metric(
    "smartbatch_gateway_loop_lag_seconds",
    "histogram",
    "gateway",
    "How late the event loop wakes up, measured twice a second; far above 1 ms the gateway is short of CPU",
    (),
    (),
    SECONDS,
)
GATEWAY_CPU = Metric(
    "smartbatch_gateway_cpu_seconds_total", "counter", "gateway", "CPU time of all processes of the gateway", ()
)
GATEWAY_MEMORY = Metric(
    "smartbatch_gateway_resident_memory_bytes",
    "gauge",
    "gateway",
    "Resident memory of all processes of the gateway",
    (),
)
BROKER_UP = Metric(
    "smartbatch_broker_up",
    "gauge",
    "gateway",
    "1 if this gateway reaches Redis; while it is 0, the metrics read from Redis are missing",
    (),
)
BUILD_INFO = Metric(
    "smartbatch_build_info",
    "gauge",
    "gateway",
    "1, with the versions of the gateway and Python as labels",
    ("version", "python"),
)
REQUEST_TIMEOUT = Metric("smartbatch_request_timeout_seconds", "gauge", "gateway", "REQUEST_TIMEOUT", ())
MAX_QUEUE = Metric("smartbatch_queue_limit", "gauge", "gateway", "MAX_QUEUE: maximum waiting requests per model", ())
MAX_QUEUE_BYTES = Metric(
    "smartbatch_inflight_limit_bytes",
    "gauge",
    "gateway",
    "MAX_QUEUE_BYTES: maximum payload bytes in flight per model",
    (),
)
MAX_CONNECTIONS = Metric(
    "smartbatch_http_connections_limit",
    "gauge",
    "gateway",
    "MAX_CONNECTIONS of all processes of the gateway, lowered if the limit of open files requires it",
    (),
)

# --- exported by workers

BATCHES = Metric(
    "smartbatch_batches_total",
    "counter",
    "worker",
    "Batches by close reason",
    (*MODEL, "closed"),
    ("full", "bytes", "cost", "window", "idle", "deadline", "drain", "isolated"),
)
BATCH_ROWS = Metric("smartbatch_batch_rows", "histogram", "worker", "Rows per batch", buckets=ROWS_BUCKETS)
BATCH_REQUESTS = Metric("smartbatch_batch_requests", "histogram", "worker", "Requests per batch", buckets=ROWS_BUCKETS)
QUEUE_WAIT = Metric(
    "smartbatch_queue_wait_seconds", "histogram", "worker", "Time from admission to claim", buckets=SECONDS
)
DECODE = Metric("smartbatch_decode_seconds", "histogram", "worker", "Time to decode one request", buckets=SECONDS)
BATCH_WAIT = Metric(
    "smartbatch_batch_wait_seconds",
    "histogram",
    "worker",
    "Time from decoded to the start of the forward",
    buckets=SECONDS,
)
FORWARD = Metric(
    "smartbatch_forward_seconds",
    "histogram",
    "worker",
    "Time of one forward, including copies to and from the device",
    buckets=SECONDS,
)
PREDICTED_FORWARD = Metric(
    "smartbatch_predicted_forward_seconds_total",
    "counter",
    "worker",
    "Forward time of the batches as the cost model had predicted it; compare smartbatch_forward_seconds_sum",
)
PADDING = Metric(
    "smartbatch_padding_ratio",
    "histogram",
    "worker",
    "Size of a batch with padding, divided by the sum of its rows' sizes; only of models whose rows have sizes",
    buckets=(1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0),
)
REQUEST_FORWARD = Metric(
    "smartbatch_request_forward_seconds_total",
    "counter",
    "worker",
    "Forward time summed over requests: a forward counts once for each request of its batch",
)
ROWS = Metric("smartbatch_rows_total", "counter", "worker", "Rows that ran")
ENTRIES = Metric(
    "smartbatch_entries_total",
    "counter",
    "worker",
    "Entries by outcome at the worker",
    (*MODEL, "outcome"),
    ("ok", "invalid", "error", "expired", "cancelled", "lost", "dead"),
)
REDELIVERIES = Metric("smartbatch_redeliveries_total", "counter", "worker", "Entries redelivered from dead workers")
DEAD_WORKERS_FOUND = Metric(
    "smartbatch_dead_workers_found_total", "counter", "worker", "Workers that this worker found dead"
)
BISECTIONS = Metric("smartbatch_bisections_total", "counter", "worker", "Batches halved because a row failed")
OUT_OF_MEMORY = Metric(
    "smartbatch_out_of_memory_total", "counter", "worker", "Batches halved because the device ran out of memory"
)
MEMORY_BATCH_LIMIT = Metric(
    "smartbatch_memory_batch_limit_rows",
    "gauge",
    "worker",
    "Rows per batch that fit the device's memory, as learned so far; 0 while loading. Where rows have sizes and a "
    "batch did not fit: rows times the largest size",
)
BATCH_LIMIT = Metric(
    "smartbatch_batch_limit_rows",
    "gauge",
    "worker",
    "MAX_BATCH_SIZE in effect, including changes by `smartbatch limits`",
)
WINDOW = Metric(
    "smartbatch_batch_window_seconds",
    "gauge",
    "worker",
    "MAX_WAIT_TIME in effect, including changes by `smartbatch limits`",
)
CAPACITY = Metric(
    "smartbatch_capacity_rows_per_second",
    "gauge",
    "worker",
    "Estimated throughput of this worker, from its recent batches; 0 while unknown",
)
SPEEDUP = Metric(
    "smartbatch_model_speedup_ratio",
    "gauge",
    "worker",
    "Speed of the variant that OPTIMIZE chose, relative to the eager network; measured when it was chosen",
    (*MODEL, "variant"),
)
DEVICE_BUSY = Metric(
    "smartbatch_device_busy_seconds_total", "counter", "worker", "Time that the device spent in forwards"
)
DEVICE_STARVED = Metric(
    "smartbatch_device_starved_seconds_total",
    "counter",
    "worker",
    "Time that the device waited for a full batch after all its entries had been admitted",
)
DEVICE_WAIT = Metric(
    "smartbatch_device_wait_seconds",
    "histogram",
    "worker",
    "Time that a batch waited for its turn on a device that several workers share; part of the batch wait",
    buckets=SECONDS,
)
PAUSED_TURNS = Metric(
    "smartbatch_device_paused_turns_total",
    "counter",
    "worker",
    "Turns of other workers on a shared device that this one did not wait for, since they made no progress",
)
DEVICE_MEMORY = Metric(
    "smartbatch_device_memory_bytes",
    "gauge",
    "worker",
    "Memory of the CUDA device: in tensors of this worker, reserved by its PyTorch (includes tensors), and in total",
    (*MODEL, "state"),
    ("allocated", "reserved", "total"),
)
WORKER_BROKER_ERRORS = Metric(
    "smartbatch_worker_broker_errors_total", "counter", "worker", "Failed calls of the worker to Redis"
)
LAST_PROGRESS = Metric(
    "smartbatch_worker_last_progress_timestamp_seconds",
    "gauge",
    "worker",
    "Time at which the worker last finished a batch or was idle",
)
WORKER_START = Metric(
    "smartbatch_worker_start_timestamp_seconds", "gauge", "worker", "Time at which the worker started"
)
WORKER_CPU = Metric(
    "smartbatch_worker_cpu_seconds_total", "counter", "worker", "CPU time of the worker, over all threads"
)
WORKER_MEMORY = Metric(
    "smartbatch_worker_resident_memory_bytes", "gauge", "worker", "Resident memory of the worker on the host"
)
WORKER_INFO = Metric(
    "smartbatch_worker_info",
    "gauge",
    "worker",
    "1, with the model, the device and SmartBatch's release as labels",
    (*MODEL, "model_path", "device", "dtype", "release"),
)

# --- read from Redis by every gateway, twice a second

QUEUE_DEPTH = Metric("smartbatch_queue_depth", "gauge", "broker", "Entries waiting to be claimed")
RUNNING = Metric("smartbatch_running", "gauge", "broker", "Entries claimed but not finished")
EXECUTING = Metric(
    "smartbatch_executing",
    "gauge",
    "broker",
    "Running entries whose batch is on a device, as workers report twice a second",
)
OPEN_BYTES = Metric(
    "smartbatch_inflight_bytes", "gauge", "broker", "Payload bytes of all requests admitted but not finished"
)
OLDEST_WAIT = Metric("smartbatch_oldest_wait_seconds", "gauge", "broker", "Wait so far of the next entry to be claimed")
BACKLOG = Metric(
    "smartbatch_backlog_seconds",
    "gauge",
    "broker",
    "Time that one worker would need for all waiting and running entries, at the last known rate of a worker; 1 if "
    "that is unknown and there is an entry",
)
DEAD_LETTERS = Metric("smartbatch_dead_letters", "gauge", "broker", "Dead letters kept")
IN_FLIGHT = Metric("smartbatch_requests_in_flight", "gauge", "broker", "Requests for which gateways await a reply")
WORKERS = Metric(
    "smartbatch_workers",
    "gauge",
    "broker",
    "Workers with a lease, by state",
    (*MODEL, "state"),
    ("loading", "warming", "ready", "draining"),
)

# of models with a routing table

ROUTE_WEIGHT = Metric(
    "smartbatch_route_weight",
    "gauge",
    "broker",
    "Share (0 to 1) of a version's weight in its model's routing table; of models whose table has weights",
    ("model", "version"),
)
PROMOTION_ABORTED = Metric(
    "smartbatch_promotion_aborted",
    "gauge",
    "broker",
    "1 if the last promotion was given up because this version was worse, until the table is changed",
    ("model", "version"),
)

# of models with several partitions

PARTITION_WAITING = Metric(
    "smartbatch_partition_waiting",
    "gauge",
    "broker",
    "Entries waiting to be claimed in each of several partitions",
    (*MODEL, "partition"),
)
PARTITION_WORKERS = Metric(
    "smartbatch_partition_workers",
    "gauge",
    "broker",
    "Ready workers that have joined each of several partitions; one that helps out also counts in its home partition",
    (*MODEL, "partition"),
)
PARTITION_UP = Metric(
    "smartbatch_partition_up",
    "gauge",
    "broker",
    "1 if the broker of each of several partitions answers; while it is 0, the partition's other numbers are 0 too",
    (*MODEL, "partition"),
)
