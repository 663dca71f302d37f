"""What workers and gateways have counted since they started, and how much of that was in the last seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from smartbatch.gateway.core.metrics import WINDOW_S
from smartbatch.shared.broker.admin.registry import Snapshot, number
from smartbatch.shared.telemetry.counts import FIELD, decode


class Counts(dict[tuple[str, str], float]):
    """(what, which) → how many, as shared/telemetry/counts.py names them."""

    def of(self, what: str) -> dict[str, float]:
        return {which: value for (kind, which), value in self.items() if kind == what}

    def ints(self, what: str) -> dict[str, int]:
        return {which: int(value) for which, value in self.of(what).items()}

    def one(self, what: str, which: str) -> float:
        return self.get((what, which), 0.0)

    def since(self, before: Counts) -> Counts:
        return Counts({key: value - before.get(key, 0.0) for key, value in self.items()})


class WorkerWindowStats(msgspec.Struct):
    """`busy`: the share of the time that the device was in forwards."""

    batches: int
    rows: int
    busy: float


class WindowStats(msgspec.Struct):
    """One model's last `window_s` seconds: less than WINDOW_S while looking has only begun.

    `parts_ms`: where an answered request's time went, on average. `rows_at_most`: batches by rows.
    """

    window_s: float
    answered: int
    parts_ms: dict[str, float]
    rows_at_most: dict[str, int]
    closed: dict[str, int]
    workers: dict[str, WorkerWindowStats]


class _Sample(msgspec.Struct):
    now_ms: int
    started_ms: dict[str, float]
    counts: dict[str, Counts]


class StatsWindow:
    """The samples at one model within the window. Owned by whoever samples, about once a second."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()

    def add(self, snapshot: Snapshot) -> WindowStats:
        """Take in a snapshot and return what happened since the oldest one in the window."""
        samples = self._samples
        if not samples or snapshot.now_ms != samples[-1].now_ms:
            reports = {**snapshot.workers, **snapshot.gateways}
            started_ms = {process: number(report.get("started_ms")) for process, report in reports.items()}
            samples.append(_Sample(snapshot.now_ms, started_ms, counts_by_process(snapshot)))
        while samples[-1].now_ms - samples[0].now_ms > WINDOW_S * 1000:
            samples.popleft()
        window_s = (samples[-1].now_ms - samples[0].now_ms) / 1000
        each = {process: self._since_oldest(process) for process in samples[-1].counts}
        together = sum_counts(each.values())
        answered = together.one("total", "answered")
        return WindowStats(
            window_s=round(window_s, 1),
            answered=int(answered),
            parts_ms={
                part: round(value * 1000 / answered, 3) for part, value in together.of("part").items() if answered
            },
            rows_at_most=together.ints("batch_rows"),
            closed=together.ints("closed"),
            workers={worker_id: _worker(each[worker_id], window_s) for worker_id in snapshot.workers},
        )

    def _since_oldest(self, process: str) -> Counts:
        """What a process has counted since the oldest sample; since it was first seen, if it isn't in that one; since
        its start, if that was later."""
        newest, oldest = self._samples[-1], self._samples[0]
        now = newest.counts[process]
        if process not in oldest.counts and newest.started_ms[process] >= oldest.now_ms:
            return now
        return now.since(next(sample.counts[process] for sample in self._samples if process in sample.counts))


def counts_by_process(snapshot: Snapshot) -> dict[str, Counts]:
    """Return what each worker and each gateway process has counted since it started."""
    reports = {**snapshot.workers, **snapshot.gateways}
    return {process: _read(report.get(FIELD, b"")) for process, report in reports.items()}


def sum_counts(each: Iterable[Counts]) -> Counts:
    total = Counts()
    for one in each:
        for key, value in one.items():
            total[key] = total.get(key, 0.0) + value
    return total


def _read(packed: bytes) -> Counts:
    return Counts({(what, which): value for what, found in decode(packed).items() for which, value in found.items()})


def _worker(counted: Counts, window_s: float) -> WorkerWindowStats:
    busy = counted.one("seconds", "busy") / window_s if window_s else 0.0
    batches = int(sum(counted.of("closed").values()))
    return WorkerWindowStats(batches, int(counted.one("total", "rows")), round(min(1.0, busy), 3))
