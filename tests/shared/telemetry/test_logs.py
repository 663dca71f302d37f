"""Clients cannot forge log lines."""

from __future__ import annotations

import logging

import pytest

from smartbatch.shared.telemetry.logs import set_up


def test_a_traceback_that_quotes_a_client_forges_no_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.root.handlers[:], logging.root.level
    try:
        set_up("human", "info", "worker")
        try:
            raise RuntimeError("unknown word \n12:00:00 worker CRITICAL forged\x1b[2J")
        except RuntimeError:
            logging.getLogger("t").warning("a row failed", exc_info=True)
    finally:
        logging.root.handlers[:], logging.root.level = before
    first, *others = capsys.readouterr().err.splitlines()
    assert first.endswith("worker WARNING a row failed")
    assert all(line.startswith("  | ") for line in others)
    assert "  | 12:00:00 worker CRITICAL forged\\x1b[2J" in others
