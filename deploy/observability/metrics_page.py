"""The tables of docs/metrics.md, made from the declarations of the metrics."""

from __future__ import annotations

from smartbatch.gateway.web import triton_metrics
from smartbatch.shared.telemetry.metric_names import BROKER_UP, DECLARED, CountedBy, Metric

FILE = "docs/metrics.md"
BEGIN = "<!-- generated from shared/telemetry/metric_names.py by `make generated` -->\n"
END = "<!-- end of what is generated -->\n"

_GROUPS: dict[CountedBy, tuple[str, str]] = {
    "gateway": (
        "Counted by gateways",
        "Each gateway shows what it has counted itself, all of its processes together: add up over gateways.",
    ),
    "worker": (
        "Counted by workers",
        "Every gateway shows every live worker, under the label `worker`; a worker's own `/metrics` has the same "
        "without that label. Take each worker once before adding up: `sum by (model) (max by (model, worker) (…))`.",
    ),
    "broker": (
        "Read from Redis",
        f"Every gateway shows the same: `max by (model) (…)`. While Redis is away these and the workers' are missing, "
        f"and `{BROKER_UP.name}` is 0.",
    ),
}


def renewed(page: str) -> str:
    """Return the page with its tables as they are made now. ValueError if it has no place for them."""
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    return head + BEGIN + tables() + END + tail


def tables() -> str:
    groups = [_group(counted_by, *said) for counted_by, said in _GROUPS.items()]
    return "\n".join(["", *groups, _buckets(), _aliases()]) + "\n"


def _group(counted_by: CountedBy, title: str, text: str) -> str:
    rows = [_row(metric) for metric in DECLARED if metric.counted_by == counted_by]
    head = "| metric | kind | labels | meaning |\n|---|---|---|---|"
    return "\n".join([f"## {title}\n", text, "", head, *rows, ""])


def _row(metric: Metric) -> str:
    labels = [*metric.labels, "worker"] if metric.counted_by == "worker" else list(metric.labels)
    shown = ", ".join(f"`{label}`" for label in labels)
    values = f"<br>`{metric.labels[-1]}`: {', '.join(metric.values)}" if metric.values else ""
    return f"| `{metric.name}` | {metric.kind} | {shown}{values} | {metric.help} |"


def _buckets() -> str:
    by_bounds: dict[tuple[float, ...], list[str]] = {}
    for metric in DECLARED:
        if metric.buckets:
            by_bounds.setdefault(metric.buckets, []).append(f"`{metric.name}`")
    rows = [
        f"| {', '.join(names)} | {', '.join(f'{bound:g}' for bound in bounds)} |" for bounds, names in by_bounds.items()
    ]
    return "\n".join(["## Buckets\n", "| histograms | upper bounds |\n|---|---|", *rows, ""])


def _aliases() -> str:
    rows = [
        f"| `{alias.name}` | counter | {alias.here} |" for alias in (*triton_metrics.ALIASES, triton_metrics.FAILURE)
    ]
    pending = f"| `{triton_metrics.PENDING}` | gauge | waiting, or claimed and not yet on the device; from Redis |"
    text = (
        "With TRITON_METRICS=on these are there too, with the labels `model` and `version`, so that dashboards made "
        "for Triton work. Each gateway counts its own requests, as a Triton server would: add up over gateways. Only "
        "what is pending is one number for all of them: take the largest. Rows and batches are those of answered "
        "requests."
    )
    return "\n".join(["## Triton's names\n", text, "", "| metric | kind | here |\n|---|---|---|", *rows, pending])
