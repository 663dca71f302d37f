"""The tables of docs/metrics.md, from the declarations in shared/telemetry/metric_names.py."""

from __future__ import annotations

from smartbatch.shared.telemetry.metric_names import BACKLOG, BROKER_UP, DECLARED, CountedBy, Metric

FILE = "docs/metrics.md"
BEGIN = "<!-- generated from shared/telemetry/metric_names.py by `make generated` -->\n"
END = "<!-- end of what is generated -->\n"

_GROUPS: dict[CountedBy, tuple[str, str]] = {
    "gateway": (
        "Metrics of gateways",
        "Each gateway exports its own, of all its processes together: sum over gateways.",
    ),
    "worker": (
        "Metrics of workers",
        "Each worker exports its own on METRICS_PORT, with its ID in the label `worker`: sum over workers.",
    ),
    "broker": (
        "Read from Redis",
        "Every gateway exports the same: use `max by (model, version) (…)`. While Redis is unavailable they are "
        f"missing, and `{BROKER_UP.name}` is 0. A model without workers, requests and dead letters, for which no "
        f"gateway has a queue, has only `{BACKLOG.name}`.",
    ),
}


def updated(page: str) -> str:
    """Return the page with up-to-date tables. Raises ValueError if it lacks the markers."""
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    return head + BEGIN + tables() + END + tail


def tables() -> str:
    groups = [_group(counted_by, *texts) for counted_by, texts in _GROUPS.items()]
    return "\n".join(["", *groups, _buckets()]) + "\n"


def _group(counted_by: CountedBy, title: str, text: str) -> str:
    rows = [_row(metric) for metric in DECLARED if metric.counted_by == counted_by]
    head = "| metric | kind | labels | meaning |\n|---|---|---|---|"
    return "\n".join([f"## {title}\n", text, "", head, *rows, ""])


def _row(metric: Metric) -> str:
    shown = ", ".join(f"`{label}`" for label in metric.label_names)
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
