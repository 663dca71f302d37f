"""Computes statistics of the last seconds from the counts that workers and gateways report since their start."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from smartbatch.gateway.core.latency_window import WINDOW_S
from smartbatch.shared.broker.admin.registry import Snapshot, number
from smartbatch.shared.telemetry.counts import FIELD, decode


class Counts(dict[tuple[str, str], float]):
    """(what, which) → number, with the names of shared/telemetry/counts.py."""

    def of(self, what: str) -> dict[str, float]:
        return {which: value for (kind, which), value in self.items() if kind == what}

    def ints(self, what: str) -> dict[str, int]:
        return {which: int(value) for which, value in self.of(what).items()}

    def value(self, what: str, which: str) -> float:
        return self.get((what, which), 0.0)

    def since(self, before: Counts) -> Counts:
        return Counts({key: value - before.get(key, 0.0) for key, value in self.items()})


class WorkerWindowStats(msgspec.Struct):
    """`busy`: the share of time in which the device ran forwards."""

    batches: int
    rows: int
    busy: float


class WindowStats(msgspec.Struct):
    """One model's last `window_s` seconds, which are fewer than WINDOW_S after the start.

    `parts_ms`: mean time of each part of an answered request. `rows_at_most`: batches by rows, as upper bounds.
    `padding_ratio`: padded by real size of the rows that ran; None if none did, or if rows of the model have no sizes.
    `forward_s`, `predicted_s`: seconds of the forwards, and as they had been predicted.
    """

    window_s: float
    answered: int
    parts_ms: dict[str, float]
    rows_at_most: dict[str, int]
    closed: dict[str, int]
    workers: dict[str, WorkerWindowStats]
    padding_ratio: float | None = None
    forward_s: float = 0.0
    predicted_s: float = 0.0


class _Sample(msgspec.Struct):
    now_ms: int
    started_ms: dict[str, float]
    counts: dict[str, Counts]


class StatsWindow:
    """The samples of one model's counts within the window. Its owner adds one about once a second."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()

    def add(self, snapshot: Snapshot) -> WindowStats:
        """Add a snapshot, and return the difference to the oldest one in the window."""
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
        answered = together.value("total", "answered")
        real, padded = together.value("size", "real"), together.value("size", "padded")
        return WindowStats(
            window_s=round(window_s, 1),
            answered=int(answered),
            parts_ms={
                part: round(value * 1000 / answered, 3) for part, value in together.of("part").items() if answered
            },
            rows_at_most=together.ints("batch_rows"),
            closed=together.ints("closed"),
            workers={worker_id: _worker(each[worker_id], window_s) for worker_id in snapshot.workers},
            padding_ratio=round(padded / real, 3) if real else None,
            forward_s=round(together.value("seconds", "busy"), 3),
            predicted_s=round(together.value("seconds", "predicted"), 3),
        )

    def _since_oldest(self, process: str) -> Counts:
        """Return what a process has counted since the oldest sample. If that doesn't contain it, count from its start
        if it started later, otherwise from the first sample that does."""
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
    for counts in each:
        for key, value in counts.items():
            total[key] = total.get(key, 0.0) + value
    return total


def _read(packed: bytes) -> Counts:
    return Counts({(what, which): value for what, found in decode(packed).items() for which, value in found.items()})


def _worker(counted: Counts, window_s: float) -> WorkerWindowStats:
    busy = counted.value("seconds", "busy") / window_s if window_s else 0.0
    batches = int(sum(counted.of("closed").values()))
    return WorkerWindowStats(batches, int(counted.value("total", "rows")), round(min(1.0, busy), 3))
