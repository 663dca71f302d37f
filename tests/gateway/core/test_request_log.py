"""The request log: one line for each failed request, up to a limit."""

from __future__ import annotations

import logging

import pytest

from smartbatch.gateway.core.request_log import RequestLog
from smartbatch.shared.errors import (
    BrokerUnavailable,
    ClientGone,
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    QueueFull,
    SmartBatchError,
)
from smartbatch.shared.telemetry.log_rate_limiter import LINES_PER_S


def test_lines_of_each_code_are_limited_and_the_rest_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lines, started = RequestLog(), []
    for number in range(1000):
        written = lines.write(QueueFull("full"), lambda: {"request_id": started.append(1) or "r"})
        assert written == (number < LINES_PER_S)
    assert lines.write(DeadlineExceeded("late"), dict)  # another code has its own limit
    assert len(started) == LINES_PER_S  # a request without a line costs little
    lines.flush()
    assert caplog.messages[-1] == "queue_full: 990 more requests in this second"
    assert vars(caplog.records[-1])["suppressed"] == 990
    assert len(caplog.messages) == LINES_PER_S + 2
    assert lines.write(QueueFull("full"), dict)  # the next second
    lines.flush()
    assert len(caplog.messages) == LINES_PER_S + 3


@pytest.mark.parametrize(
    ("error", "level", "status", "text"),
    [
        (QueueFull("full"), "WARNING", 503, "queue_full: full"),
        (BrokerUnavailable("away"), "WARNING", 503, "broker_unavailable: away"),
        (InvalidInput("expected a number, got 'my secret'"), "WARNING", 422, "invalid_input"),
        (ClientGone("left"), "INFO", 499, "client_gone: left"),
        (DeadlineExceeded("late"), "WARNING", 504, "deadline_exceeded: late"),
        (ModelFailed("it failed"), "WARNING", 500, "model_failed: it failed"),
        (KeyError("x"), "ERROR", 500, "a request failed with an unexpected error"),
    ],
)
def test_level_and_text_depend_on_the_outcome(
    error: Exception, level: str, status: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    RequestLog().write(error, lambda: {"request_id": "r1"})
    (record,) = caplog.records
    assert (record.levelname, record.getMessage(), vars(record)["status"]) == (level, text, status)
    assert bool(record.exc_info) == (not isinstance(error, SmartBatchError))


def test_client_input_is_quoted_only_at_debug_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    RequestLog().write(InvalidInput("got 'x'"), dict)
    assert caplog.messages == ["invalid_input: got 'x'"]
