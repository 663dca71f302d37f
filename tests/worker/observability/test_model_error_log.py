"""A model that fails on every request leaves a few tracebacks and a count."""

from __future__ import annotations

import logging

import pytest

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.worker.observability.model_error_log import ModelErrorLog

TRACE = "0af7651916cd43dd8448eb211c80319c"
ENTRY = Entry("1-0", "r1", "g", 0, 1000, 1, 1, "raw", f"00-{TRACE}-b7ad6b7169203331-00", b"x")


def test_each_line_names_its_request_until_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    lines = ModelErrorLog()
    for _ in range(100):
        lines.failed("the model failed on one row", RuntimeError("no"), ENTRY, "b1")
    lines.flush()
    *reported, last = caplog.records
    assert len(reported) == 10
    for record in reported:
        facts = vars(record)
        assert record.levelno == logging.WARNING
        assert record.exc_info
        assert (facts["request_id"], facts["trace_id"], facts["batch_id"]) == ("r1", TRACE, "b1")
    assert last.getMessage() == "the model failed on one row: 90 more requests"
    lines.flush()
    assert len(caplog.records) == 11
