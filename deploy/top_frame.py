"""The screen of `smartbatch top`: rates, latencies, time per part, batches and workers of each model."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from smartbatch.deploy.entry_view import printable
from smartbatch.deploy.tables import partition_table, table
from smartbatch.gateway.core.response_types import ModelStats
from smartbatch.gateway.monitoring.model_view import CLIENT_ERRORS, FAILED, REJECTED, ModelView
from smartbatch.gateway.monitoring.window_stats import WindowStats
from smartbatch.shared.keys import split_model_id

PART_COLOURS = {
    "admit": "white",
    "queue": "red",
    "decode": "magenta",
    "batch_wait": "yellow",
    "forward": "blue",
    "reply": "green",
}
_BAR = 40  # characters
_SHARE_BAR = 16


def frame(models: Mapping[str, ModelView], error: str = "") -> RenderableType:
    """Render all models. `error` says why the numbers are out of date."""
    clock = time.strftime("%H:%M:%S")
    head = Text.assemble(("smartbatch top  ", "bold"), clock, ("   q quits", "dim"))
    if error:
        head.append(f"   {printable(error)}", "bold red")
    shown: list[RenderableType] = [head]
    if not models:
        shown.append(Text("no model has been announced yet"))
    shown += [part for name, views in _by_name(models).items() if len(views) > 1 for part in _versions(name, views)]
    for name, view in models.items():
        shown += [Text(), *_model(name, view)]
    return Group(*shown)


def _by_name(models: Mapping[str, ModelView]) -> dict[str, dict[int, ModelView]]:
    """Return the views of each model's versions, in order."""
    found: dict[str, dict[int, ModelView]] = {}
    for model in sorted(models, key=split_model_id):
        name, version = split_model_id(model)
        found.setdefault(name, {})[version] = models[model]
    return found


def _versions(name: str, views: Mapping[int, ModelView]) -> list[RenderableType]:
    """Render the versions of a model side by side. Shares are of the requests of the window."""
    requests = {version: sum(view.stats.outcomes.values()) for version, view in views.items()}
    total = sum(requests.values())
    rows = table("version", "share", "answered", "rejected", "failed", "p50", "p99", "waiting", "ready workers")
    for version, view in views.items():
        stats = view.stats
        ready = sum(report.get("state") == "ready" for report in stats.workers.values())
        rates = (f"{stats.throughput_rps:g}/s", _rate(stats, REJECTED), _rate(stats, FAILED))
        latencies = (_ms(stats.latency_ms["p50"]), _ms(stats.latency_ms["p99"]))
        share = f"{requests[version] / total:.0%}" if total else "–"
        rows.add_row(str(version), share, *rates, *latencies, f"{stats.queue.waiting:,}", str(ready))
    return [Text(), Text.assemble((f"versions of {name}", "bold")), rows]


def _model(name: str, view: ModelView) -> list[RenderableType]:
    stats, last = view.stats, view.last
    queue, latency = stats.queue, stats.latency_ms
    title = Text.assemble((name, "bold reverse"), f"  rates and latencies over the last {stats.window_s} s")
    rates = Text.assemble(
        *_field("answered", f"{stats.throughput_rps:g}/s"),
        *_field("rejected", _rate(stats, REJECTED), "yellow"),
        *_field("failed", _rate(stats, FAILED), "red"),
        *_field("client errors", _rate(stats, CLIENT_ERRORS)),
        *(part for p in ("p50", "p95", "p99") for part in _field(p, _ms(latency[p]))),
    )
    depth = Text.assemble(
        *_field("waiting", f"{queue.waiting:,}"),
        *_field("running", f"{queue.running:,}"),
        *_field("oldest wait", f"{queue.oldest_wait_s:.2f} s"),
        *_field("in flight", f"{queue.open_bytes:,} bytes"),
        *_field("dead letters", f"{queue.dead_letters:,}"),
    )
    partitions = [partition_table(stats.partitions)] if stats.partitions else []
    return [title, rates, depth, *partitions, _parts(last), _distributions(last), _workers(view)]


def _parts(last: WindowStats) -> RenderableType:
    """Render the mean time per part of answered requests, as numbers and as a bar."""
    total = sum(last.parts_ms.values())
    if not total:
        return Text("no recent requests", "dim")
    line, bar = Text("time      "), Text(" " * 10)
    for part, ms in last.parts_ms.items():
        colour = PART_COLOURS.get(part, "white")
        line.append("■ ", colour).append(f"{part.replace('_', ' ')} ").append(_ms(ms) + "  ", "bold")
        bar.append("█" * round(ms / total * _BAR), colour)
    return Group(line, bar)


def _distributions(last: WindowStats) -> RenderableType:
    both = Table.grid(padding=(0, 4))
    rows = {f"up to {bound}" if bound != "inf" else "more": count for bound, count in last.rows_at_most.items()}
    both.add_row(_shares("rows per batch", rows), _shares("close reason", last.closed))
    return Group(both, sizes(last)) if last.padding_ratio else both


def sizes(last: WindowStats) -> Text:
    """Render what padding cost, of a model whose rows have sizes, and how well the forwards were predicted."""
    return Text.assemble(
        *_field("padded size", f"{last.padding_ratio:.2f} × the real one"),
        *_field("forwards", f"{last.forward_s:.3g} s"),
        *_field("predicted", f"{last.predicted_s:.3g} s"),
    )


def _shares(title: str, counts: Mapping[str, int]) -> RenderableType:
    shares, total = table(title, "batches", ""), sum(counts.values())
    for label, count in counts.items():
        if count:
            shares.add_row(label, str(count), "█" * max(1, round(count / total * _SHARE_BAR)))
    return shares if total else Text(f"{title}: no recent batches", "dim")


def _workers(view: ModelView) -> RenderableType:
    if not view.stats.workers:
        return Text("no live workers", "bold red")
    workers = table("worker", "state", "device", "busy", "recent batches", "recent rows", "batches", "activity")
    for worker_id, report in view.stats.workers.items():
        recent = view.last.workers[worker_id]
        activity = (
            f"{report['batch_rows']} rows for {report['batch_s']} s" if report.get("batch") else report["progress"]
        )
        numbers = (f"{recent.busy:.0%}", str(recent.batches), str(recent.rows), str(report.get("batches", "")))
        texts = (worker_id, str(report.get("state", "")), str(report.get("device", "")), *numbers, str(activity))
        workers.add_row(*[printable(text) for text in texts])
    return workers


def _field(name: str, value: str, colour: str = "") -> tuple[tuple[str, str], tuple[str, str]]:
    style = f"bold {colour}" if not value.startswith("0/") else "bold"
    return (f"{name} ", "dim"), (f"{value}   ", style)


def _rate(stats: ModelStats, outcomes: tuple[str, ...]) -> str:
    return f"{sum(stats.outcomes.get(outcome, 0) for outcome in outcomes) / stats.window_s:g}/s"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g} ms" if value < 100 else f"{value:,.0f} ms"
