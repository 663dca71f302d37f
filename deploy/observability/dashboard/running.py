"""What the system is made of: the queue, workers, gateways, and how they fail."""

from __future__ import annotations

from smartbatch.deploy.observability.dashboard.panels import BLUE, GRAY, GREEN, RED, YELLOW, Panel, Query, Section
from smartbatch.deploy.observability.dashboard.queries import PER, increase, now, quantile, rate
from smartbatch.shared.telemetry import metric_names as names

QUEUE = Section(
    "Queue",
    [
        Panel(
            title="Waiting, running, waited for",
            says="Entries on the stream, and requests that gateways hold. At MAX_QUEUE new ones are refused.",
            queries=[
                Query(now(names.QUEUE_DEPTH), "{{model}} waiting"),
                Query(now(names.RUNNING), "{{model}} running"),
                Query(now(names.IN_FLIGHT), "{{model}} in flight"),
            ],
        ),
        Panel(
            title="Oldest wait",
            says="How long the next entry to be claimed has waited, and REQUEST_TIMEOUT.",
            queries=[
                Query(now(names.OLDEST_WAIT), "{{model}}"),
                Query(f"min({names.REQUEST_TIMEOUT.name})", "timeout"),
            ],
            unit="s",
            dashed=["timeout"],
            colors={"timeout": RED},
        ),
        Panel(
            title="Payloads open",
            says="Bytes of all requests admitted and not finished. At MAX_QUEUE_BYTES new ones are refused.",
            queries=[
                Query(now(names.OPEN_BYTES), "{{model}}"),
                Query(f"min({names.MAX_QUEUE_BYTES.name})", "limit"),
            ],
            unit="bytes",
            dashed=["limit"],
            colors={"limit": RED},
        ),
    ],
)

WORKERS = Section(
    "Workers and devices",
    [
        Panel(
            title="Workers by state",
            says="Those that hold a lease.",
            queries=[Query(f"sum by (state) ({now(names.WORKERS, 'model, state')})", "{{state}}")],
            stacked=True,
            colors={"ready": GREEN, "loading": YELLOW, "warming": BLUE, "draining": GRAY},
        ),
        Panel(
            title="Device busy",
            says="The share of the time that each device was in forwards.",
            queries=[Query(rate(names.DEVICE_BUSY, "model, worker"), "{{model}} {{worker}}")],
            unit="percentunit",
        ),
        Panel(
            title="Device starved",
            says="The share of the time that each device waited for a batch though a backlog filled it: what decoding "
            "and Redis cost in throughput.",
            queries=[Query(rate(names.DEVICE_STARVED, "model, worker"), "{{model}} {{worker}}")],
            unit="percentunit",
        ),
        Panel(
            kind="table",
            title="Workers",
            says="Those that live now.",
            queries=[
                Query(now(names.WORKER_INFO, "model, worker, model_path, device, dtype, version")),
                Query(f"time() - {now(names.WORKER_START, 'model, worker')}"),
            ],
            unit="s",
            width=16,
            columns={
                "worker": "worker",
                "model": "model",
                "model_path": "MODEL_PATH",
                "device": "device",
                "dtype": "dtype",
                "version": "version",
                "Value #B": "up for",
            },
        ),
        Panel(
            title="Device memory",
            says="What torch holds on each CUDA device, and all there is. Empty on CPUs.",
            queries=[Query(now(names.DEVICE_MEMORY, "worker, state"), "{{worker}} {{state}}")],
            unit="bytes",
        ),
        Panel(
            title="CPU of workers",
            says="Cores in use by each worker, all its threads.",
            queries=[Query(rate(names.WORKER_CPU, "model, worker"), "{{model}} {{worker}}")],
        ),
        Panel(
            title="Memory of workers",
            says="On the host.",
            queries=[Query(now(names.WORKER_MEMORY, "model, worker"), "{{model}} {{worker}}")],
            unit="bytes",
        ),
        Panel(
            title="Rows that fit",
            says="What fits the device's memory as far as is known; it falls when the device ran out of it.",
            queries=[Query(now(names.CEILING, "model, worker"), "{{model}} {{worker}}")],
        ),
    ],
)

FAILURES = Section(
    "When things fail",
    [
        Panel(
            title="Dead workers and what became of their entries",
            says="Workers found dead, entries taken over from them, requests admitted again because Redis lost them.",
            queries=[
                Query(increase(names.CONVICTIONS), "workers found dead"),
                Query(increase(names.REDELIVERIES), "entries taken over"),
                Query(increase(names.READMISSIONS), "admitted again"),
            ],
        ),
        Panel(
            title="Batches halved",
            says="To find the row that failed, or to fit the device's memory.",
            queries=[
                Query(increase(names.BISECTIONS), "a row failed"),
                Query(increase(names.OUT_OF_MEMORY), "out of memory"),
            ],
        ),
        Panel(
            title="Entries that gave no result",
            says="By what became of them at the worker; dead ones are dead letters.",
            queries=[Query(rate(names.ENTRIES, "outcome", where=',outcome!="ok"'), "{{outcome}}")],
            unit="ops",
        ),
        Panel(
            title="Calls to Redis that failed",
            says="A gateway that can't reach it refuses with 503; a worker tries again.",
            queries=[
                Query(f"sum({rate(names.GATEWAY_BROKER_ERRORS)})", "gateways"),
                Query(f"sum({rate(names.WORKER_BROKER_ERRORS)})", "workers"),
            ],
            unit="ops",
        ),
        Panel(
            title="Redis is reachable",
            says="From each gateway: 1 or 0.",
            queries=[Query(names.BROKER_UP.name, "{{instance}}")],
            most=1,
        ),
        Panel(
            title="Connections ended early",
            says="By why: for want of room, too slow, or no HTTP.",
            queries=[Query(f"sum by (reason) (rate({names.HTTP_REFUSED.name}{PER})) > 0", "{{reason}}")],
            unit="ops",
        ),
    ],
)

GATEWAYS = Section(
    "Gateways",
    [
        Panel(
            title="CPU of gateways",
            says="Cores in use, all processes of a gateway together.",
            queries=[Query(f"rate({names.GATEWAY_CPU.name}{PER})", "{{instance}}")],
            width=6,
        ),
        Panel(
            title="Event loop late by",
            says="p95. Far above a millisecond, a gateway is short of CPU: start another, or set GATEWAY_PROCESSES.",
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
            says="Open ones, and MAX_CONNECTIONS.",
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
            says="All processes of a gateway together; and bytes of bodies that have come in part.",
            queries=[
                Query(names.GATEWAY_MEMORY.name, "{{instance}}"),
                Query(names.RECEIVING_BYTES.name, "{{instance}} receiving"),
            ],
            unit="bytes",
            width=6,
        ),
    ],
)
