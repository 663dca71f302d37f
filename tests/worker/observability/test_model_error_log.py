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


def raised() -> ValueError:
    try:
        int("secret")
    except ValueError as error:
        return error
    raise AssertionError


def test_clients_see_the_kind_of_an_error_and_on_request_its_text_and_place() -> None:
    assert str(ModelErrorLog().failed("no", raised(), ENTRY)) == "no (ValueError)"
    shown = str(ModelErrorLog(show_errors=True).failed("no", raised(), ENTRY))
    assert shown.startswith("no (ValueError: invalid literal for int() with base 10: 'secret' (")
    assert "test_model_error_log.py, line " in shown


def test_a_traceback_begins_at_the_users_code(serve_error, caplog: pytest.LogCaptureFixture) -> None:
    ModelErrorLog().failed("no", serve_error, ENTRY)
    lines = caplog.text.splitlines()
    assert "their_code.py" in lines[lines.index("Traceback (most recent call last):") + 1]


@pytest.fixture
def serve_error(tmp_path) -> Exception:
    """An error raised by a user's model, below frames of this package and of torch."""
    from smartbatch.worker.models import LoadContext, resolve

    file = tmp_path / "their_code.py"
    file.write_text("class Mine:\n    def forward(self, batch): return int('secret')\n")
    model = resolve(f"{file}:Mine")
    model.load(LoadContext(device="cpu"))
    with pytest.raises(ValueError, match="invalid literal") as caught:
        model.forward([])
    traceback = caught.value.__traceback__
    assert traceback is not None
    return caught.value.with_traceback(traceback.tb_next)  # without this function's frame
