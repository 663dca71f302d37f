"""What both commands ask: what is served, what is sent to it, and where the results go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from loadtest.drive.scenario import SCENARIOS


def served_and_sent(function: Callable) -> Callable:
    """Add --model, --weights, --scenario and --body (`own`)."""
    for option in (
        click.option(
            "--body",
            "own",
            multiple=True,
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A file to send instead (an image, .json, .npy, .msgpack, .txt); may be given several times.",
        ),
        click.option(
            "--scenario", type=click.Choice(SCENARIOS), default="auto", show_default=True, help="What is sent."
        ),
        click.option("--weights", default="default", show_default=True, help="As MODEL_WEIGHTS."),
        click.option("--model", default="efficientnet_lite0", show_default=True, help="As MODEL_PATH: what is served."),
    ):
        function = option(function)
    return function


def results(folder: str) -> Callable[[Callable], Callable]:
    """Add --out and --fresh."""

    def decorate(function: Callable) -> Callable:
        fresh = click.option("--fresh", is_flag=True, help="Throw away what --out holds of an earlier run.")
        kind = click.Path(file_okay=False, path_type=Path)
        out = click.option("--out", type=kind, default=Path(folder), show_default=True, help="The folder for results.")
        return out(fresh(function))

    return decorate
