"""Options, value formats and error handling that the commands of benchmark and study share."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from loadtest.workload.scenario import SCENARIOS

T = TypeVar("T", int, float)

INTERRUPTED = 130  # exit code
_UNITS = {"ms": 0.001, "": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


class DifferentRun(ValueError):
    """The folder holds results of another command."""


def model_options(function: Callable) -> Callable:
    """Add --model, --weights, --scenario and --body (`files`)."""
    path = click.Path(exists=True, dir_okay=False, path_type=Path)
    files = "A file to send instead (an image, .json, .npy, .msgpack, .txt); may be given several times."
    scenario = click.Choice(SCENARIOS)
    for option in (
        click.option("--body", "files", multiple=True, type=path, help=files),
        click.option("--scenario", type=scenario, default="auto", show_default=True, help="What is sent."),
        click.option("--weights", default="default", show_default=True, help="As MODEL_WEIGHTS."),
        click.option("--model", default="efficientnet_lite0", show_default=True, help="As MODEL_PATH."),
    ):
        function = option(function)
    return function


def result_options(folder: str) -> Callable[[Callable], Callable]:
    """Add --out and --fresh."""

    def decorate(function: Callable) -> Callable:
        fresh = click.option("--fresh", is_flag=True, help="Discard what --out holds of an earlier run.")
        path = click.Path(file_okay=False, path_type=Path)
        out = click.option("--out", type=path, default=Path(folder), show_default=True, help="Folder for results.")
        return out(fresh(function))

    return decorate


@contextlib.contextmanager
def interruptible(out: Path) -> Iterator[None]:
    """Report expected errors in one line; on Ctrl-C or SIGTERM say how to resume and exit with code 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo(f"\nstopped; results so far are in {out}, and the same command resumes", err=True)
        sys.exit(INTERRUPTED)


def check_same(folder: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise DifferentRun unless the folder's run has the `wanted` parameters."""
    if other := [f"{key} {held.get(key)!r}, not {wanted[key]!r}" for key in wanted if held.get(key) != wanted[key]]:
        raise DifferentRun(
            f"{folder} holds a run with {'; '.join(other)}. To resume it, give the same options; "
            "otherwise choose another --out, or --fresh to discard it"
        )


def provenance(module: str) -> dict[str, str]:
    """Return the command and the time, which are stored with the result."""
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "finished_at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def duration_s(text: str) -> float:
    """Parse `100ms`, `90`, `90s`, `10m` or `1h30m`; return seconds. Raises ValueError."""
    squeezed = re.sub(r"\s", "", text.lower())
    parts = re.findall(r"(\d+(?:\.\d+)?)([a-z]*)", squeezed)
    if not parts or "".join(number + unit for number, unit in parts) != squeezed:
        raise ValueError(f"expected a duration like 100ms, 90s, 10m or 1h30m, got {text!r}")
    if unknown := {unit for _, unit in parts} - set(_UNITS):
        raise ValueError(f"expected ms, s, m or h after a number, got {', '.join(sorted(unknown))!r} in {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def whole_seconds(text: str) -> int:
    """Parse a duration of one or more whole seconds. Raises ValueError."""
    seconds = duration_s(text)
    if seconds < 1 or seconds != int(seconds):
        raise ValueError(f"expected whole seconds, one or more, got {text!r}")
    return int(seconds)


def number_list(text: str, read: Callable[[str], T], minimum: T, what: str) -> tuple[T, ...]:
    """Parse distinct numbers separated by commas, in order. Raises ValueError, which says that `what` was expected."""
    try:
        values = tuple(dict.fromkeys(read(word.strip()) for word in text.split(",")))
    except ValueError:
        values = ()
    if not values or min(values) < minimum:
        raise ValueError(f"expected {what} separated by commas, got {text!r}")
    return values


def checked(parse: Callable[[str], T | tuple]) -> Callable[[click.Context, click.Parameter, str], Any]:
    """Make a click callback from a parser that raises ValueError."""

    def callback(context: click.Context, parameter: click.Parameter, text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback
