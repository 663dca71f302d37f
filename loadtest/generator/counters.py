"""Counts of a load, one second at a time, and their sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from loadtest.generator.connection import NO_RESPONSE, Connection
from loadtest.generator.histogram import bucket, merged, percentile_ms
from loadtest.workload import verify

MAX_PAUSE_S = 30.0  # of a Retry-After that is kept
PERCENTS = (50, 95, 99)

Event = tuple[str, dict[str, Any]]
"""What a generator process reports: ("warm" | "begin" | "second" | "end", counts)."""


class Counters:
    """Recorder of a loop. One success in `check_every` is compared with the reference of its body, if it has one."""

    def __init__(self, references: Sequence[Any], check_every: int) -> None:
        self._references = references
        self._check_every = check_every
        self._candidates = 0
        self._reset()

    def _reset(self) -> None:
        self.sent = self.refused = self.checked = 0
        self.errors: Counter[str] = Counter()
        self.latency: Counter[int] = Counter()
        self.late: Counter[int] = Counter()

    def take(self) -> dict[str, Any]:
        """Return the counts since the last call. `ok`, `refused` and all `errors` add up to the ended requests.

        `ok`: status 200, and correct if checked; `latency` is theirs. `refused`: 503 with Retry-After. `late`: by how
        much an open loop missed its schedule.
        """
        counts = {
            "sent": self.sent,
            "ok": self.latency.total(),
            "refused": self.refused,
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
            self.refused += 1
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


def totals(events: Iterable[Event], *, count_unanswered: bool = False) -> dict[str, Any]:
    """Add up the events of a load. Percentiles are of successes.

    With `count_unanswered` they include the requests without a response, with the time they had waited at the end:
    their latency is at least that.
    """
    events = list(events)
    seconds = [counts for event, counts in events if event == "second"]
    ends = [counts for event, counts in events if event == "end"]
    errors: Counter[str] = Counter()
    for each in seconds:
        errors.update(each["errors"])
    unanswered = merged(end["unanswered"] for end in ends) if count_unanswered else Counter()
    latency = merged(each["latency"] for each in seconds) + unanswered
    return {
        "seconds": len(seconds),
        **{name: sum(each[name] for each in seconds) for name in ("sent", "ok", "refused", "checked", "wrong")},
        "errors": errors.total(),
        "errors_by_kind": dict(errors),
        "unanswered": unanswered.total(),
        "throughput_rps": round(sum(each["ok"] for each in seconds) / max(1, len(seconds)), 2),
        **{f"p{percent}_ms": percentile_ms(latency, percent) for percent in PERCENTS},
        "late_p99_ms": percentile_ms(merged(each["late"] for each in seconds), 99),
        "mean_batch_rows": mean_batch_rows(seconds),
    }


def mean_batch_rows(seconds: Sequence[dict[str, Any]]) -> float | None:
    batches = sum(each.get("batches", 0) for each in seconds)
    return round(sum(each.get("rows", 0) for each in seconds) / batches, 2) if batches else None
