"""Counts of a load for each second, and their totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from loadtest.generator.connection import NO_RESPONSE, Connection
from loadtest.generator.histogram import bucket, merged, percentile_ms
from loadtest.workload import verify

MAX_PAUSE_S = 30.0  # longer times in Retry-After are cut to this
PERCENTS = (50, 95, 99)

Event = tuple[str, dict[str, Any]]
"""An event of the generator process: ("warm" | "begin" | "second" | "end", counts)."""


class Counters:
    """Recorder of a loop. Compares one success in `check_every` with the reference of its body, if it has one."""

    def __init__(self, references: Sequence[Any], check_every: int) -> None:
        self._references = references
        self._check_every = check_every
        self._candidates = 0
        self._reset()

    def _reset(self) -> None:
        self.sent = self.rejected = self.checked = 0
        self.errors: Counter[str] = Counter()
        self.latency: Counter[int] = Counter()
        self.late: Counter[int] = Counter()

    def read_and_reset(self) -> dict[str, Any]:
        """Return the counts since the last call. `ok`, `rejected` and all `errors` add up to the ended requests.

        `ok` has status 200 and is correct if checked; `latency` is that of `ok`. `rejected` is 503 with Retry-After.
        `late` is how much later than scheduled an open loop started its requests.
        """
        counts = {
            "sent": self.sent,
            "ok": self.latency.total(),
            "rejected": self.rejected,
            "errors": dict(self.errors),
            "checked": self.checked,
            "wrong": self.errors["wrong response"],
            "latency": dict(sorted(self.latency.items())),
            "late": dict(sorted(self.late.items())),
        }
        self._reset()
        return counts

    def started(self, start: float, now: float) -> None:
        self.sent += 1
        if now != start:  # a closed loop has no schedule
            self.late[bucket((now - start) * 1000)] += 1

    def ended(self, connection: Connection, start: float, now: float) -> float:
        status = connection.status
        if status == 200:
            if self._is_correct(connection):
                self.latency[bucket((now - start) * 1000)] += 1
        elif status == 503 and (retry_after := connection.header(b"retry-after")).isdigit():
            self.rejected += 1
            return min(MAX_PAUSE_S, float(retry_after))
        else:
            self.failed("no response" if status == NO_RESPONSE else str(status))
        return 0.0

    def failed(self, error: str) -> None:
        self.errors[error] += 1

    def _is_correct(self, connection: Connection) -> bool:
        reference = self._references[connection.body]
        self._candidates += reference is not None
        if reference is None or self._candidates % self._check_every:
            return True
        self.checked += 1
        try:
            correct = verify.difference(reference, verify.result(connection.response.partition(b"\r\n\r\n")[2])) <= 1
        except verify.Unreadable:
            correct = False
        if not correct:
            self.failed("wrong response")
        return correct


def totals(events: Iterable[Event], *, count_unfinished: bool = False) -> dict[str, Any]:
    """Add up the events of a load. Percentiles are those of successes.

    With `count_unfinished` they also include requests that have no response at the end. Their time until then is a
    lower bound of their latency.
    """
    events = list(events)
    seconds = [counts for event, counts in events if event == "second"]
    ends = [counts for event, counts in events if event == "end"]
    errors: Counter[str] = Counter()
    for each in seconds:
        errors.update(each["errors"])
    unfinished = merged(end["unfinished"] for end in ends) if count_unfinished else Counter()
    latency = merged(each["latency"] for each in seconds) + unfinished
    return {
        "seconds": len(seconds),
        **{name: sum(each[name] for each in seconds) for name in ("sent", "ok", "rejected", "checked", "wrong")},
        "errors": errors.total(),
        "errors_by_kind": dict(errors),
        "unfinished": unfinished.total(),
        "throughput_rps": round(sum(each["ok"] for each in seconds) / max(1, len(seconds)), 2),
        **{f"p{percent}_ms": percentile_ms(latency, percent) for percent in PERCENTS},
        "late_p99_ms": percentile_ms(merged(each["late"] for each in seconds), 99),
        "mean_batch_rows": mean_batch_rows(seconds),
    }


def mean_batch_rows(seconds: Sequence[dict[str, Any]]) -> float | None:
    batches = sum(each.get("batches", 0) for each in seconds)
    return round(sum(each.get("rows", 0) for each in seconds) / batches, 2) if batches else None
