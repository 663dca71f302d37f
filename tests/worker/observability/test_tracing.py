"""Times of a request's spans, if the clocks of worker and gateway differ."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.telemetry.trace_context import TraceContext, new_span_id, new_trace_id, write_field
from smartbatch.worker.core.batch import Batch, ClaimedEntry
from smartbatch.worker.observability.tracing import SKEW_WINDOW_S, ClockSkews, Tracing


class FakeSpans:
    """Stands for Spans: records name, begin and end of each span."""

    def __init__(self) -> None:
        self.spans: dict[str, tuple[int, int]] = {}
        self.batch: dict[str, Any] = {}

    def add(self, name: str, own: Any, parent: Any, start_ns: int, end_ns: int, attributes: Any, **more: Any) -> None:
        if parent != "batch":
            self.spans[name] = (start_ns, end_ns)

    def add_batch(self, name: str, own: Any, start_ns: int, end_ns: int, attributes: Any, links: Any) -> None:
        self.spans["batch"] = (start_ns, end_ns)
        self.batch = {"name": name, **attributes}

    def span_context(self, context: TraceContext, *, remote: bool = False) -> str:
        return "request" if remote else "batch"

    def child(self, parent: Any) -> None: ...
    def link(self, context: Any, attributes: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("ahead_s", "moved"),
    [(0.0, False), (0.010, False), (-0.010, False), (2.0, True), (-3600.0, True)],
)
def test_spans_use_the_gateways_clock_if_the_clocks_differ(ahead_s: float, moved: bool) -> None:
    now = time.monotonic()
    wall_us = time.time_ns() // 1000
    sent_us = wall_us - 500_000 + int(ahead_s * 1e6)  # half a second ago, by the gateway's clock
    trace = write_field(TraceContext(new_trace_id(), new_span_id(), True, "", sent_us))
    entry = Entry("1-0", "r1", "g", 1_000_000, 10_000, 1, 1, "raw", trace, b"x")
    claimed = ClaimedEntry(entry, 1_000_200, now - 0.3)  # claimed 0.3 s ago, admitted 0.2 s before that
    claimed.decode_s, claimed.decoded_at, claimed.rows, claimed.outputs = 0.05, now - 0.2, [1], [1]
    batch = Batch("b1", [claimed], "full")
    batch.started_at, batch.forward_s = now - 0.15, 0.1
    spans = FakeSpans()
    Tracing(cast(Any, spans), "m", "w").batch(batch, "cpu", now - 0.04, now)
    shift_s = ahead_s if moved else 0.0
    begins = {name: (begin / 1000 - wall_us) / 1e6 - shift_s for name, (begin, _) in spans.spans.items()}
    assert begins["queue"] == pytest.approx(-0.5, abs=0.03)
    assert begins["decode"] == pytest.approx(-0.25, abs=0.03)
    assert begins["batch_wait"] == pytest.approx(-0.2, abs=0.03)
    assert begins["forward"] == pytest.approx(-0.15, abs=0.03)
    assert begins["batch"] + shift_s == pytest.approx(-0.3, abs=0.03)  # this host's own


def test_the_span_of_a_batch_names_the_model_and_its_version() -> None:
    trace = write_field(TraceContext(new_trace_id(), new_span_id(), True))
    entry = Entry("1-0", "r1", "g", 1_000_000, 10_000, 1, 1, "raw", trace, b"x")
    spans = FakeSpans()
    batch = Batch("b1", [ClaimedEntry(entry, 1_000_200, time.monotonic())], "full")
    Tracing(cast(Any, spans), "m@2", "w").batch(batch, "cpu", 0.0, 0.0)
    shown = {key: spans.batch[key] for key in ("name", "smartbatch.model", "smartbatch.model_version")}
    assert shown == {"name": "batch m", "smartbatch.model": "m", "smartbatch.model_version": 2}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_slow_admissions_do_not_look_like_clock_skew() -> None:
    clock = Clock()
    skews = ClockSkews(clock)
    assert [skews.update("g1", seen) for seen in (500_000, 300_000_000, 100_000)] == [500_000, 500_000, 100_000]
    assert skews.update("g2", 300_000_000) == 300_000_000  # another gateway, another clock
    clock.now += SKEW_WINDOW_S + 1
    assert skews.update("g1", 40_000_000) == 100_000  # from the window before
    clock.now += SKEW_WINDOW_S + 1
    assert skews.update("g1", 50_000_000) == 40_000_000
    clock.now += SKEW_WINDOW_S + 1
    assert skews.update("g1", 50_000_000) == 50_000_000  # a clock may have been set meanwhile
