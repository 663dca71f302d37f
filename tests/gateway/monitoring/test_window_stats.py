from __future__ import annotations

from collections import defaultdict

import pytest

from smartbatch.gateway.core.latency_window import WINDOW_S
from smartbatch.gateway.monitoring.window_stats import StatsWindow, WindowStats, WorkerWindowStats
from smartbatch.shared.broker.admin.registry import Snapshot
from smartbatch.shared.telemetry.counts import encode


class Worker:
    """The counts that a worker reports."""

    def __init__(self, started_ms: int = 0) -> None:
        self._started_ms = started_ms
        self._counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def ran(self, rows: int, closed: str = "full", seconds: float = 0.0) -> Worker:
        self._counts["closed"][closed] += 1
        self._counts["batch_rows"][f"{next(bound for bound in (1, 2, 4, 8) if rows <= bound)}"] += 1
        self._counts["total"]["rows"] += rows
        self._counts["seconds"]["busy"] += seconds
        return self

    @property
    def report(self) -> dict:
        return {"started_ms": str(self._started_ms), "counts": encode(self._counts)}


def gateway(answered: int, started_ms: int = 0, **parts: float) -> dict:
    return {"started_ms": str(started_ms), "counts": encode({"total": {"answered": answered}, "part": parts})}


def snapshot(
    now_ms: int, workers: dict[str, Worker] | None = None, gateways: dict[str, dict] | None = None
) -> Snapshot:
    return Snapshot("m", now_ms, workers={w: x.report for w, x in (workers or {}).items()}, gateways=gateways or {})


def non_zero(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def test_counts_before_the_first_snapshot_are_outside_the_window() -> None:
    window, worker = StatsWindow(), Worker().ran(8).ran(3)
    last = window.add(snapshot(50_000, {"w": worker}, {"g": gateway(5, queue=1.0)}))
    assert last == WindowStats(0.0, 0, {}, last.rows_at_most, last.closed, {"w": WorkerWindowStats(0, 0, 0.0)})
    assert non_zero(last.rows_at_most) == non_zero(last.closed) == {}
    worker.ran(8, seconds=0.5).ran(2, "window", 0.25)
    last = window.add(snapshot(51_000, {"w": worker}, {"g": gateway(9, queue=1.4, forward=0.2)}))
    assert non_zero(last.rows_at_most) == {"8": 1, "2": 1}
    assert non_zero(last.closed) == {"full": 1, "window": 1}
    assert (last.window_s, last.answered, last.parts_ms) == (1.0, 4, {"queue": 100.0, "forward": 50.0})
    assert last.workers == {"w": WorkerWindowStats(2, 10, 0.75)}


def test_padding_and_predicted_seconds_are_those_of_the_window() -> None:
    window = StatsWindow()

    def report(real: int, padded: int, predicted_s: float, busy_s: float) -> Snapshot:
        counts = {"size": {"real": real, "padded": padded}, "seconds": {"predicted": predicted_s, "busy": busy_s}}
        workers = {"w": {"started_ms": "0", "counts": encode(counts)}}
        return Snapshot("m", 1000 * (100 + real), workers=workers, gateways={})

    last = window.add(report(1, 5, 7.0, 8.0))
    assert (last.padding_ratio, last.forward_s, last.predicted_s) == (None, 0.0, 0.0)
    last = window.add(report(5, 11, 7.5, 8.4))
    assert (last.padding_ratio, last.forward_s, last.predicted_s) == (1.5, 0.4, 0.5)


def test_old_counts_leave_the_window() -> None:
    window, worker = StatsWindow(), Worker()
    for second in range(100, 130):
        last = window.add(snapshot(second * 1000, {"w": worker.ran(1)}))
    assert (last.window_s, last.closed["full"]) == (WINDOW_S, WINDOW_S)


def test_starting_and_ending_processes_are_counted_correctly() -> None:
    window, old = StatsWindow(), Worker().ran(8)
    window.add(snapshot(100_000, {"old": old}, {"a": gateway(100, queue=1.0)}))
    new, known_late = Worker(started_ms=100_500).ran(4), Worker(started_ms=7).ran(2)
    both = {"new": new, "known late": known_late}
    last = window.add(snapshot(101_000, both, {"a": gateway(101, queue=1.5)}))
    # all batches of the worker that has just started, none of the one without an earlier report
    assert non_zero(last.rows_at_most) == {"4": 1}
    assert list(last.workers) == ["new", "known late"]
    last = window.add(snapshot(102_000, {"known late": known_late.ran(2)}))
    assert non_zero(last.rows_at_most) == {"2": 1}
    assert last.answered == 0


def test_a_repeated_snapshot_counts_once_and_never_divides_by_zero() -> None:
    window, worker = StatsWindow(), Worker()
    for _ in range(3):
        assert window.add(snapshot(100_000, {"w": worker})).window_s == 0.0


def test_a_report_without_counts_has_no_stats() -> None:
    last = StatsWindow().add(Snapshot("m", 1, workers={"w": {"started_ms": "0"}}, gateways={"g": {"started_ms": "0"}}))
    assert (last.answered, last.workers) == (0, {"w": WorkerWindowStats(0, 0, 0.0)})


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"text", b"\x81\xa1\xff\x80", encode({"closed": {"full": -1}})])
def test_invalid_counts_are_skipped_and_hide_no_others(packed: bytes) -> None:
    window, worker = StatsWindow(), Worker()
    broken = {"started_ms": "0", "counts": packed}
    for second in (100, 101):
        last = window.add(Snapshot("m", second * 1000, workers={"broken": broken, "w": worker.ran(1).report}))
    assert last.workers == {"broken": WorkerWindowStats(0, 0, 0.0), "w": WorkerWindowStats(1, 1, 0.0)}
