"""What `--model [NAME[@VERSION]=]PATH` says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbatch.deploy.models.option import ModelWord, parse_model
from smartbatch.shared.errors import SettingsError

PATHS = ["resnet18", "net.pt2", "simulated:base_ms=4,row_ms=0.2", "dir/a=b.py:Net", "hf:org/name@rev", "/x=y/net.pt2"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("resnet18", ("", 1, "resnet18")),
        ("iris=examples.tabular:Iris", ("iris", 1, "examples.tabular:Iris")),
        ("m@2=net-v2.pt2", ("m", 2, "net-v2.pt2")),
        ("m@1=net.pt2", ("m", 1, "net.pt2")),
        ("simulated:base_ms=4", ("", 1, "simulated:base_ms=4")),
        ("fast=simulated:base_ms=4,row_ms=1", ("fast", 1, "simulated:base_ms=4,row_ms=1")),
        ("runs/lr=0.1/net.pt2", ("", 1, "runs/lr=0.1/net.pt2")),
        ("./lr=0.1.pt2", ("", 1, "./lr=0.1.pt2")),
        ("lr=0.1.pt2", ("lr", 1, "0.1.pt2")),  # a file of that name is written ./lr=0.1.pt2
        ("my.py:Net", ("", 1, "my.py:Net")),
        ("", ("", 1, "")),
    ],
)
def test_a_name_stands_before_the_first_equals_sign(word: str, expected: tuple[str, int, str]) -> None:
    assert parse_model(word) == expected


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("iris=", "--model iris=: expected a path after iris="),
        ("m@0=net.pt2", "--model m@0=net.pt2: a version must be a whole number from 1 to 999999999, got '0'"),
        ("m@=net.pt2", "a version must be .* got ''"),
        ("m@two=net.pt2", "a version must be .* got 'two'"),
        (f"{'x' * 129}=net.pt2", "a model name must be 1 to 128 characters"),
    ],
)
def test_a_name_that_cannot_be_one_is_explained(word: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        parse_model(word)


@given(st.text("AZaz09._-", min_size=1, max_size=20), st.integers(1, 999_999_999), st.sampled_from(PATHS))
def test_every_name_and_version_is_read_back(name: str, version: int, path: str) -> None:
    assert parse_model(f"{name}@{version}={path}") == ModelWord(name, version, path)
    assert parse_model(f"{name}={path}") == ModelWord(name, 1, path)
