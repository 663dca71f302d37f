"""What `smartbatch top` shows, as rich draws it: each model's numbers, where time goes, batches, workers."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from smartbatch.deploy.entry_view import printable
from smartbatch.deploy.tables import table
from smartbatch.gateway.core.response_types import ModelStats
from smartbatch.gateway.monitoring.model_view import ModelView
from smartbatch.gateway.monitoring.window_stats import Last

PART_COLOURS = {
    "admit": "white",
    "queue": "red",
    "decode": "magenta",
    "batch_wait": "yellow",
    "forward": "blue",
    "reply": "green",
}
REFUSALS = ("rejected", "denied", "invalid")
FAILURES = ("timeout", "error")
_BAR = 40  # characters
_SHARE_BAR = 16


def frame(models: Mapping[str, ModelView], trouble: str = "") -> RenderableType:
    """`trouble`: why these numbers aren't of now."""
    clock = time.strftime("%H:%M:%S")
    head = Text.assemble(("smartbatch top  ", "bold"), clock, ("   q leaves", "dim"))
    if trouble:
        head.append(f"   {printable(trouble)}", "bold red")
    shown: list[RenderableType] = [head]
    if not models:
        shown.append(Text("no model has been announced yet"))
    for name, moment in models.items():
        shown += [Text(), *_model(name, moment)]
    return Group(*shown)


def _model(name: str, moment: ModelView) -> list[RenderableType]:
    stats, last = moment.stats, moment.last
    queue, latency = stats.queue, stats.latency_ms
    title = Text.assemble((name, "bold reverse"), f"  rates and latencies of the last {stats.window_s} s")
    rates = Text.assemble(
        *_fact("answered", f"{stats.throughput_rps:g}/s"),
        *_fact("refused", _rate(stats, REFUSALS), "yellow"),
        *_fact("failed", _rate(stats, FAILURES), "red"),
        *(fact for p in ("p50", "p95", "p99") for fact in _fact(p, _ms(latency[p]))),
    )
    depth = Text.assemble(
        *_fact("waiting", f"{queue.waiting:,}"),
        *_fact("running", f"{queue.running:,}"),
        *_fact("oldest wait", f"{queue.oldest_wait_s:.2f} s"),
        *_fact("open", f"{queue.open_bytes:,} bytes"),
        *_fact("dead letters", f"{queue.dead_letters:,}"),
    )
    return [title, rates, depth, _parts(last), _distributions(last), _workers(moment)]


def _parts(last: Last) -> RenderableType:
    """Where an answered request's time went, as numbers and as a bar."""
    total = sum(last.parts_ms.values())
    if not total:
        return Text("no request was answered lately", "dim")
    told, bar = Text("its time  "), Text(" " * 10)
    for part, ms in last.parts_ms.items():
        colour = PART_COLOURS.get(part, "white")
        told.append("■ ", colour).append(f"{part.replace('_', ' ')} ").append(_ms(ms) + "  ", "bold")
        bar.append("█" * round(ms / total * _BAR), colour)
    return Group(told, bar)


def _distributions(last: Last) -> RenderableType:
    both = Table.grid(padding=(0, 4))
    rows = {f"up to {bound}" if bound != "inf" else "more": count for bound, count in last.rows_at_most.items()}
    both.add_row(_shares("rows in a batch", rows), _shares("closed because", last.closed))
    return both


def _shares(title: str, counts: Mapping[str, int]) -> RenderableType:
    shares, total = table(title, "batches", ""), sum(counts.values())
    for label, count in counts.items():
        if count:
            shares.add_row(label, str(count), "█" * max(1, round(count / total * _SHARE_BAR)))
    return shares if total else Text(f"{title}: no batch lately", "dim")


def _workers(moment: ModelView) -> RenderableType:
    if not moment.stats.workers:
        return Text("no worker is alive", "bold red")
    workers = table("worker", "state", "device", "busy", "batches lately", "rows lately", "batches", "now")
    for worker_id, report in moment.stats.workers.items():
        lately = moment.last.workers[worker_id]
        now = f"{report['batch_rows']} rows for {report['batch_s']} s" if report.get("batch") else report["progress"]
        numbers = (f"{lately.busy:.0%}", str(lately.batches), str(lately.rows), str(report.get("batches", "")))
        texts = (worker_id, str(report.get("state", "")), str(report.get("device", "")), *numbers, str(now))
        workers.add_row(*[printable(text) for text in texts])
    return workers


def _fact(name: str, value: str, colour: str = "") -> tuple[tuple[str, str], tuple[str, str]]:
    shown = f"bold {colour}" if not value.startswith("0/") else "bold"
    return (f"{name} ", "dim"), (f"{value}   ", shown)


def _rate(stats: ModelStats, outcomes: tuple[str, ...]) -> str:
    return f"{sum(stats.outcomes.get(outcome, 0) for outcome in outcomes) / stats.window_s:g}/s"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g} ms" if value < 100 else f"{value:,.0f} ms"
