"""How durations and lists of numbers are written on our command lines."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

T = TypeVar("T", int, float)

_UNITS = {"ms": 0.001, "": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def duration_s(text: str) -> float:
    """`100ms`, `90`, `90s`, `10m`, `1h30m` → seconds. Raises ValueError."""
    squeezed = re.sub(r"\s", "", text.lower())
    parts = re.findall(r"(\d+(?:\.\d+)?)([a-z]*)", squeezed)
    if not parts or "".join(number + unit for number, unit in parts) != squeezed:
        raise ValueError(f"expected a duration like 100ms, 90s, 10m or 1h30m, got {text!r}")
    if unknown := {unit for _, unit in parts} - set(_UNITS):
        raise ValueError(f"expected ms, s, m or h after a number, got {', '.join(sorted(unknown))!r} in {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def numbers(text: str, read: Callable[[str], T], least: T, what: str) -> tuple[T, ...]:
    """Different numbers by comma, in order. Raises ValueError, which says `what` was expected."""
    try:
        values = tuple(dict.fromkeys(read(word.strip()) for word in text.split(",")))
    except ValueError:
        values = ()
    if not values or min(values) < least:
        raise ValueError(f"expected {what} by comma, got {text!r}")
    return values


def checked(check: Callable[[str], T | tuple]) -> Callable[[click.Context, click.Parameter, str], Any]:
    """Make a click callback of a function that raises ValueError."""

    def callback(context: click.Context, parameter: click.Parameter, text: str) -> Any:
        try:
            return check(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def whole_seconds(text: str) -> int:
    """A duration of a second or more."""
    seconds = duration_s(text)
    if seconds < 1 or seconds != int(seconds):
        raise ValueError(f"expected whole seconds, one or more, got {text!r}")
    return int(seconds)
