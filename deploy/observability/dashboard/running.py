"""Sections on the queue, workers, failures and gateways."""

from __future__ import annotations

from smartbatch.deploy.observability.dashboard.panels import BLUE, GRAY, GREEN, RED, YELLOW, Panel, Query, Section
from smartbatch.deploy.observability.dashboard.queries import EACH, ID, PER, increase, now, quantile, rate
from smartbatch.shared.telemetry import metric_names as names

QUEUE = Section(
    "Queue",
    [
        Panel(
            title="Requests waiting, running and in flight",
            description="Entries on the stream, and requests held by gateways. At MAX_QUEUE, new ones are rejected.",
            queries=[
                Query(now(names.QUEUE_DEPTH), f"{ID} waiting"),
                Query(now(names.RUNNING), f"{ID} running"),
                Query(now(names.IN_FLIGHT), f"{ID} in flight"),
            ],
        ),
        Panel(
            title="Oldest wait",
            description="Wait of the next entry to be claimed, and REQUEST_TIMEOUT.",
            queries=[
                Query(now(names.OLDEST_WAIT), ID),
                Query(f"min({names.REQUEST_TIMEOUT.name})", "timeout"),
            ],
            unit="s",
            dashed=["timeout"],
            colors={"timeout": RED},
        ),
        Panel(
            title="Payload bytes in flight",
            description="Bytes of all admitted, unfinished requests. At MAX_QUEUE_BYTES new requests are rejected.",
            queries=[
                Query(now(names.OPEN_BYTES), ID),
                Query(f"min({names.MAX_QUEUE_BYTES.name})", "limit"),
            ],
            unit="bytes",
            dashed=["limit"],
            colors={"limit": RED},
        ),
        Panel(
            title="Waiting by partition",
            description="Entries waiting in each partition of models that have several. Empty with one.",
            queries=[Query(now(names.PARTITION_WAITING, f"{EACH}, partition"), f"{ID} {{{{partition}}}}")],
        ),
    ],
)

WORKERS = Section(
    "Workers and devices",
    [
        Panel(
            title="Workers by state",
            description="Workers with a lease, by state.",
            queries=[Query(f"sum by (state) ({now(names.WORKERS, f'{EACH}, state')})", "{{state}}")],
            stacked=True,
            colors={"ready": GREEN, "loading": YELLOW, "warming": BLUE, "draining": GRAY},
        ),
        Panel(
            title="Device busy",
            description="Share of time that each device runs forwards.",
            queries=[Query(rate(names.DEVICE_BUSY, f"{EACH}, worker"), f"{ID} {{{{worker}}}}")],
            unit="percentunit",
        ),
        Panel(
            title="Device starved",
            description="Share of time that each device waits for a batch although requests are queued: the throughput "
            "that decoding and Redis cost.",
            queries=[Query(rate(names.DEVICE_STARVED, f"{EACH}, worker"), f"{ID} {{{{worker}}}}")],
            unit="percentunit",
        ),
        Panel(
            kind="table",
            title="Workers",
            description="Live workers.",
            queries=[
                Query(now(names.WORKER_INFO, f"{EACH}, worker, model_path, device, dtype, release")),
                Query(f"time() - {now(names.WORKER_START, f'{EACH}, worker')}"),
            ],
            unit="s",
            width=16,
            columns={
                "worker": "worker",
                "model": "model",
                "version": "version",
                "model_path": "MODEL_PATH",
                "device": "device",
                "dtype": "dtype",
                "release": "SmartBatch",
                "Value #B": "uptime",
            },
        ),
        Panel(
            title="Device memory",
            description="Memory that PyTorch has reserved on each CUDA device, and its total. Empty on CPUs.",
            queries=[Query(now(names.DEVICE_MEMORY, "worker, state"), "{{worker}} {{state}}")],
            unit="bytes",
        ),
        Panel(
            title="CPU of workers",
            description="Cores used by each worker, over all its threads.",
            queries=[Query(rate(names.WORKER_CPU, f"{EACH}, worker"), f"{ID} {{{{worker}}}}")],
        ),
        Panel(
            title="Memory of workers",
            description="Resident memory on the host.",
            queries=[Query(now(names.WORKER_MEMORY, f"{EACH}, worker"), f"{ID} {{{{worker}}}}")],
            unit="bytes",
        ),
        Panel(
            title="Memory batch limit",
            description="Rows per batch that fit the device's memory; lowered after an out-of-memory error.",
            queries=[Query(now(names.MEMORY_BATCH_LIMIT, f"{EACH}, worker"), f"{ID} {{{{worker}}}}")],
        ),
    ],
)

FAILURES = Section(
    "Failures",
    [
        Panel(
            title="Dead workers and redeliveries",
            description="Dead workers, entries redelivered from them, and requests readmitted after Redis lost them.",
            queries=[
                Query(increase(names.DEAD_WORKERS_FOUND), "dead workers"),
                Query(increase(names.REDELIVERIES), "entries redelivered"),
                Query(increase(names.READMISSIONS), "requests readmitted"),
            ],
        ),
        Panel(
            title="Batches bisected",
            description="Batches run again as halves: to find a failing row, or to fit the device's memory.",
            queries=[
                Query(increase(names.BISECTIONS), "a row failed"),
                Query(increase(names.OUT_OF_MEMORY), "out of memory"),
            ],
        ),
        Panel(
            title="Entries without a result",
            description="Entries by outcome at the worker; dead ones are dead letters.",
            queries=[Query(rate(names.ENTRIES, "outcome", where=',outcome!="ok"'), "{{outcome}}")],
            unit="ops",
        ),
        Panel(
            title="Redis errors",
            description="Failed calls to Redis. Gateways reject requests with 503; workers retry.",
            queries=[
                Query(f"sum({rate(names.GATEWAY_BROKER_ERRORS)})", "gateways"),
                Query(f"sum({rate(names.WORKER_BROKER_ERRORS)})", "workers"),
            ],
            unit="ops",
        ),
        Panel(
            title="Redis reachable",
            description="Per gateway: 1 or 0.",
            queries=[Query(names.BROKER_UP.name, "{{instance}}")],
            maximum=1,
        ),
        Panel(
            title="Connections closed early",
            description="Connections closed by the gateway: no capacity, too slow, or not HTTP.",
            queries=[Query(f"sum by (reason) (rate({names.CONNECTIONS_CLOSED.name}{PER})) > 0", "{{reason}}")],
            unit="ops",
        ),
    ],
)

GATEWAYS = Section(
    "Gateways",
    [
        Panel(
            title="CPU of gateways",
            description="Cores used, over all processes of a gateway.",
            queries=[Query(f"rate({names.GATEWAY_CPU.name}{PER})", "{{instance}}")],
            width=6,
        ),
        Panel(
            title="Event loop lag",
            description="p95. Far above 1 ms the gateway is short of CPU: start another, or raise GATEWAY_PROCESSES.",
            queries=[
                Query(
                    quantile(0.95, f"sum by (instance, le) (rate({names.LOOP_LAG.name}_bucket{PER}))"), "{{instance}}"
                )
            ],
            unit="s",
            width=6,
        ),
        Panel(
            title="Connections",
            description="Open connections, and MAX_CONNECTIONS.",
            queries=[
                Query(names.CONNECTIONS.name, "{{instance}}"),
                Query(f"min({names.MAX_CONNECTIONS.name})", "limit"),
            ],
            dashed=["limit"],
            colors={"limit": RED},
            width=6,
        ),
        Panel(
            title="Memory of gateways",
            description="Resident memory of all processes of a gateway, and bytes of bodies being received.",
            queries=[
                Query(names.GATEWAY_MEMORY.name, "{{instance}}"),
                Query(names.RECEIVING_BYTES.name, "{{instance}} receiving"),
            ],
            unit="bytes",
            width=6,
        ),
    ],
)
