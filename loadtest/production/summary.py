"""What the phases came to: the document that plots, table and report are made of."""

from __future__ import annotations

from collections import Counter
from typing import Any

from loadtest.drive.histogram import merged, percentile_ms
from loadtest.drive.order import Load
from loadtest.production.plan import TITLES, Phase
from loadtest.production.store import Store
from loadtest.traffic import answers

POINTS = 8, 60  # of a series, at the least and at the most
ANSWERS = 200  # that a point should rest on
PERCENTS = (50, 95, 99)

Event = tuple[str, dict[str, Any]]


def phase_result(phase: Phase, events: list[Event]) -> dict[str, Any]:
    """Add a phase up. `sent` + `in_flight_at_begin` = `ok` + `refused` + `errors` + `in_flight_at_end`.

    Percentiles are of answers that were right; in the open loop also of what was never answered, which has taken at
    least as long as it had waited when the phase ended.
    """
    seconds = [counted for event, counted in events if event == "second"]
    pieces = [counted for event, counted in events if event == "piece"]
    ends = [counted for event, counted in events if event == "end"]
    errors: Counter[str] = Counter()
    for each in seconds:
        errors.update(each["errors"])
    unanswered = merged(end["unanswered"] for end in ends) if phase.load.kind == "open" else Counter()
    latency = merged(each["latency"] for each in seconds) + unanswered
    ok, length = sum(each["ok"] for each in seconds), max(1, len(seconds))
    return {
        "side": phase.side,
        "title": TITLES[phase.side],
        "load": {"kind": phase.load.kind, "amount": phase.load.amount},
        "seconds": len(seconds),
        "pieces": len(pieces),
        "sent": sum(each["sent"] for each in seconds),
        "ok": ok,
        "refused": sum(each["refused"] for each in seconds),
        "errors": errors.total(),
        "errors_by_kind": dict(errors),
        "in_flight_at_begin": sum(counted["in_flight"] for event, counted in events if event == "begin"),
        "in_flight_at_end": _in_flight_at_ends(events),
        "unanswered": unanswered.total(),
        "checked": sum(each["checked"] for each in seconds),
        "wrong": sum(each["wrong"] for each in seconds),
        "throughput_rps": round(ok / length, 2),
        **{f"p{percent}_ms": percentile_ms(latency, percent) for percent in PERCENTS},
        "late_p99_ms": percentile_ms(merged(each["late"] for each in seconds), 99),
        "mean_batch_rows": _mean_batch(seconds),
        "cpu_s_per_1000": _cpu_per_1000(ends, ok),
        "others_cores": _others(ends),
        "series": _series(seconds),
    }


def _in_flight_at_ends(events: list[Event]) -> int:
    """Of each piece, what its last second left, also of one that was broken off."""
    left, last = 0, 0
    for event, counted in events:
        if event == "piece":
            left, last = left + last, 0
        elif event in ("begin", "second"):
            last = counted["in_flight"]
    return left + last


def _mean_batch(seconds: list[dict[str, Any]]) -> float | None:
    batches = sum(each.get("batches", 0) for each in seconds)
    return round(sum(each.get("rows", 0) for each in seconds) / batches, 2) if batches else None


def _cpu_per_1000(ends: list[dict[str, Any]], ok: int) -> float | None:
    return round(1000 * sum(end.get("cpu_s", 0.0) for end in ends) / ok, 3) if ok and ends else None


def _others(ends: list[dict[str, Any]]) -> float | None:
    """Cores that processes of others kept busy, on average."""
    took_s = sum(end["took_s"] for end in ends if "others_cpu_s" in end)
    return round(sum(end.get("others_cpu_s", 0.0) for end in ends) / took_s, 2) if took_s else None


def _series(seconds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Figures over time, in steps of whole seconds. None where nothing was answered."""
    fewest, most = POINTS
    answered = max(1, sum(each["ok"] for each in seconds))
    step = max(1, len(seconds) * ANSWERS // answered)
    step = min(max(step, -(-len(seconds) // most)), max(1, len(seconds) // fewest))
    points = []
    starts = range(0, max(1, len(seconds) - step + 1), step)
    for start in starts:
        part = seconds[start : None if start == starts[-1] else start + step]  # the last takes the remainder along
        latency = merged(each["latency"] for each in part)
        queues = [each["queue"] for each in part if "queue" in each]
        points.append(
            {
                "at_s": start + len(part) / 2,
                "throughput_rps": round(sum(each["ok"] for each in part) / len(part), 2),
                **{f"p{percent}_ms": percentile_ms(latency, percent) for percent in PERCENTS},
                "batch_rows": _mean_batch(part),
                "queue": round(sum(queues) / len(queues), 1) if queues else None,
                "in_flight": round(sum(each["in_flight"] for each in part) / len(part), 1),
                "refused": sum(each["refused"] for each in part),
            }
        )
    return points


def compare(baseline: dict[str, Any], smartbatch: dict[str, Any]) -> dict[str, Any]:
    """How many times better SmartBatch is: above 1 is better, None where one of them has no figure."""
    gains: dict[str, Any] = {"load": baseline["load"]}
    if baseline["throughput_rps"]:
        gains["throughput"] = round(smartbatch["throughput_rps"] / baseline["throughput_rps"], 2)
    for percent in PERCENTS:
        ours, theirs = smartbatch[f"p{percent}_ms"], baseline[f"p{percent}_ms"]
        gains[f"p{percent}"] = round(theirs / ours, 2) if ours and theirs else None
    return gains


def agreement(store: Store, phases: list[Phase]) -> dict[str, Any]:
    """Whether both sides answer each body alike, asked alone. `apart`: 1 is what is allowed."""
    said: dict[str, list[Any]] = {}
    for phase in phases:
        for event, counted in store.events(phase):
            if event == "piece":
                for name, result in counted["references"].items():
                    said.setdefault(name, []).append(result)
    apart = {name: max(answers.difference(some[0], other) for other in some) for name, some in said.items()}
    worst = max(apart.values(), default=0.0)
    return {
        "bodies": len(apart),
        "agree": sum(value <= 1 for value in apart.values()),
        "apart": None if worst == float("inf") else round(worst, 6),
        "disagreeing": sorted(name for name, value in apart.items() if value > 1),
    }


def document(store: Store, phases: list[Phase]) -> dict[str, Any]:
    results = [phase_result(phase, store.events(phase)) for phase in phases]
    by_load: dict[Load, dict[str, dict[str, Any]]] = {}
    for phase, result in zip(phases, results, strict=True):
        by_load.setdefault(phase.load, {})[phase.side] = result
    counts = ("sent", "ok", "refused", "errors", "checked", "wrong", "in_flight_at_begin", "in_flight_at_end")
    return {
        **store.facts,
        "totals": {name: sum(result[name] for result in results) for name in counts},
        "phases": results,
        "improvement": [compare(sides["baseline"], sides["smartbatch"]) for sides in by_load.values()],
        "agreement": agreement(store, phases),
    }
