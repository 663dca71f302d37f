"""Tests for the spans of one request in the gateway."""

from __future__ import annotations

import time
from unittest.mock import MagicMock

import pytest

from smartbatch.gateway.core.tracing import ServerSpan
from smartbatch.shared.telemetry.trace_context import TraceContext


@pytest.mark.parametrize(("reply_s", "children"), [(None, ["admit"]), (0.0, ["admit", "reply"])])
def test_a_reply_without_a_measurable_time_has_its_span(reply_s: float | None, children: list[str]) -> None:
    spans = MagicMock()
    span = ServerSpan(spans, "POST /predict", TraceContext("a" * 32, "b" * 16, True), None)
    span.admitted_at = time.monotonic()
    span.reply_s = reply_s
    span.end(span.admitted_at - 0.1, {}, None)
    assert [call.args[0] for call in spans.add.call_args_list] == children
