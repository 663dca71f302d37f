"""Command-line options, generated from the declarations of the settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from smartbatch.shared.settings import Settings, describe, from_environment

model_option = click.option("--name", help="Only this model. Default: all models.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
save_option = click.option(
    "--save",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Save the payload to this file: image, .npy, raw body, JSON for texts, or MessagePack for several inputs.",
)

_FLAGS = {"MODEL_PATH": "model", "MODEL_NAME": "name", "MODEL_WEIGHTS": "weights"}
_ALIASES = {"GATEWAY_PROCESSES": ["--workers"]}  # as uvicorn and gunicorn call them


def setting_options(*names: str) -> Callable[[Callable], Callable]:
    """Add an option per setting. Its value is None unless given; `read` fills in the environment."""
    declared = {name: (kind, default, meaning) for name, kind, default, meaning in describe()}

    def decorate(function: Callable) -> Callable:
        for name in reversed(names):
            kind, default, meaning = declared[name]
            flag = _FLAGS.get(name, name.lower().replace("_", "-"))
            text = f"{meaning.replace('`', '')}.  [{name}={default}]"
            flags = [f"--{flag}", *_ALIASES.get(name, [])]
            how: dict[str, Any] = {"metavar": kind.replace(" ", "") if "|" in kind else kind.upper()}
            if kind == "bool":
                how = {"is_flag": True, "flag_value": "true", "default": None}
            function = click.option(*flags, name.lower(), help=text, **how)(function)
        return function

    return decorate


def read(options: dict[str, Any]) -> Settings:
    """Return the settings from the environment and the given options. Raises SettingsError."""
    return from_environment(**options)
