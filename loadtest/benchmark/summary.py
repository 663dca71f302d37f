"""Summarize a run as the document from which table, plots and report are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtest.benchmark.plan import TITLES, Phase
from loadtest.benchmark.store import Store
from loadtest.generator.counters import PERCENTS, Event, mean_batch_rows, totals
from loadtest.generator.histogram import merged, percentile_ms
from loadtest.generator.process import Load
from loadtest.workload import verify

MIN_POINTS, MAX_POINTS = 8, 60  # of a series
RESPONSES_PER_POINT = 200


def phase_result(phase: Phase, events: Sequence[Event]) -> dict[str, Any]:
    """Sum up a phase. `sent` + `in_flight_at_begin` = `ok` + `rejected` + `errors` + `in_flight_at_end`."""
    seconds = [counts for event, counts in events if event == "second"]
    ends = [counts for event, counts in events if event == "end"]
    begins = [counts for event, counts in events if event == "begin"]
    result = totals(events, count_unfinished=phase.load.kind == "open")
    return {
        "side": phase.side,
        "title": TITLES[phase.side],
        "load": {"kind": phase.load.kind, "amount": phase.load.amount},
        "pieces": sum(event == "piece" for event, _ in events),
        **result,
        "in_flight_at_begin": sum(counts["in_flight"] for counts in begins),
        "in_flight_at_end": _in_flight_at_ends(events),
        "cpu_s_per_1000": _cpu_per_1000(ends, result["ok"]),
        "others_cores": _others_cores(ends),
        "series": _series(seconds),
    }


def _in_flight_at_ends(events: Sequence[Event]) -> int:
    """Sum the requests in flight after the last second of each piece, including interrupted ones."""
    total, last = 0, 0
    for event, counts in events:
        if event == "piece":
            total, last = total + last, 0
        elif event in ("begin", "second"):
            last = counts["in_flight"]
    return total + last


def _cpu_per_1000(ends: list[dict[str, Any]], ok: int) -> float | None:
    return round(1000 * sum(end.get("cpu_s", 0.0) for end in ends) / ok, 3) if ok and ends else None


def _others_cores(ends: list[dict[str, Any]]) -> float | None:
    """Return how many cores unrelated processes kept busy on average."""
    elapsed_s = sum(end["elapsed_s"] for end in ends if "others_cpu_s" in end)
    return round(sum(end.get("others_cpu_s", 0.0) for end in ends) / elapsed_s, 2) if elapsed_s else None


def _series(seconds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures over time in steps of whole seconds, None where there was no response."""
    responses = max(1, sum(each["ok"] for each in seconds))
    step = max(1, len(seconds) * RESPONSES_PER_POINT // responses)
    step = min(max(step, -(-len(seconds) // MAX_POINTS)), max(1, len(seconds) // MIN_POINTS))
    points = []
    starts = range(0, max(1, len(seconds) - step + 1), step)
    for start in starts:
        part = seconds[start : None if start == starts[-1] else start + step]  # the last one includes the remainder
        latency = merged(each["latency"] for each in part)
        queues = [each["queue"] for each in part if "queue" in each]
        points.append(
            {
                "at_s": start + len(part) / 2,
                "throughput_rps": round(sum(each["ok"] for each in part) / len(part), 2),
                **{f"p{percent}_ms": percentile_ms(latency, percent) for percent in PERCENTS},
                "batch_rows": mean_batch_rows(part),
                "queue": round(sum(queues) / len(queues), 1) if queues else None,
                "in_flight": round(sum(each["in_flight"] for each in part) / len(part), 1),
                "rejected": sum(each["rejected"] for each in part),
            }
        )
    return points


def compare(baseline: dict[str, Any], smartbatch: dict[str, Any]) -> dict[str, Any]:
    """Return how many times better SmartBatch is, None where a figure is missing."""
    gains: dict[str, Any] = {"load": baseline["load"]}
    if baseline["throughput_rps"]:
        gains["throughput"] = round(smartbatch["throughput_rps"] / baseline["throughput_rps"], 2)
    for percent in PERCENTS:
        ours, theirs = smartbatch[f"p{percent}_ms"], baseline[f"p{percent}_ms"]
        gains[f"p{percent}"] = round(theirs / ours, 2) if ours and theirs else None
    return gains


def agreement(store: Store, phases: list[Phase]) -> dict[str, Any]:
    """Compare the references of both sides. `difference` is in units of the tolerance."""
    references: dict[str, list[Any]] = {}
    for phase in phases:
        for event, counts in store.events(phase):
            if event == "piece":
                for name, result in counts["references"].items():
                    references.setdefault(name, []).append(result)
    differences = {name: max(verify.difference(some[0], other) for other in some) for name, some in references.items()}
    largest = max(differences.values(), default=0.0)
    return {
        "bodies": len(differences),
        "agree": sum(value <= 1 for value in differences.values()),
        "difference": None if largest == float("inf") else round(largest, 6),
        "disagreeing": sorted(name for name, value in differences.items() if value > 1),
    }


def document(store: Store, phases: list[Phase]) -> dict[str, Any]:
    results = [phase_result(phase, store.events(phase)) for phase in phases]
    by_load: dict[Load, dict[str, dict[str, Any]]] = {}
    for phase, result in zip(phases, results, strict=True):
        by_load.setdefault(phase.load, {})[phase.side] = result
    counts = ("sent", "ok", "rejected", "errors", "checked", "wrong", "in_flight_at_begin", "in_flight_at_end")
    return {
        **store.metadata,
        "totals": {name: sum(result[name] for result in results) for name in counts},
        "phases": results,
        "improvement": [compare(sides["baseline"], sides["smartbatch"]) for sides in by_load.values()],
        "agreement": agreement(store, phases),
    }
