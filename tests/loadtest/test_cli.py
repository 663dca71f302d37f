"""Formats of the commands' option values."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.cli import DifferentRun, check_same, duration_s, number_list, whole_seconds


def test_durations() -> None:
    assert [duration_s(text) for text in ("100ms", "90", "90s", "10m", "1h30m", "1.5 s")] == [
        0.1,
        90,
        90,
        600,
        5400,
        1.5,
    ]
    for wrong in ("", "ten", "10x", "-5s", "1h x"):
        with pytest.raises(ValueError, match="expected"):
            duration_s(wrong)
    with pytest.raises(ValueError, match="whole seconds"):
        whole_seconds("100ms")


def test_lists_of_numbers() -> None:
    assert number_list("200, 1000,200", int, 1, "whole numbers from 1") == (200, 1000)
    for wrong in ("", "0", "1,,2", "a"):
        with pytest.raises(ValueError, match="expected whole numbers from 1 separated by commas"):
            number_list(wrong, int, 1, "whole numbers from 1")


def test_a_folder_of_a_run_with_other_parameters_is_rejected() -> None:
    check_same(Path("out"), {"users": [1], "seconds": 2}, {"users": [1]})
    with pytest.raises(DifferentRun, match=r"out holds a run with users \[1\], not \[2\]\. .*--fresh"):
        check_same(Path("out"), {"users": [1]}, {"users": [2]})
