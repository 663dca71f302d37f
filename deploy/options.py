"""Command-line options, generated from the declarations of the settings."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from smartbatch.deploy import startup_error
from smartbatch.shared.settings import Settings, describe, from_environment, near_misses
from smartbatch.shared.telemetry import logs

log = logging.getLogger(__name__)

model_option = click.option("--name", help="Only this model, version (M@2) or partition (M:3). Default: all models.")
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
            shown = str(default).lower() if kind == "bool" else default
            text = f"{meaning.replace('`', '')}.  [{name}{f'={shown}' if shown != '' else ''}]"
            flags = [f"--{flag}", *_ALIASES.get(name, [])]
            how: dict[str, Any] = {"metavar": _metavar(name, kind)}
            if kind == "bool":
                how = {"is_flag": True, "flag_value": "true", "default": None}
            function = click.option(*flags, name.lower(), help=text, **how)(function)
        return function

    return decorate


def _metavar(name: str, kind: str) -> str:
    if "|" in kind:
        return kind.replace(" ", "")
    unit = "seconds" if kind == "float" else "bytes" if name.endswith("_BYTES") else kind
    return {"str": "text"}.get(unit, unit).upper()


def read(options: dict[str, Any]) -> Settings:
    """Return the settings from the environment and the given options. Raises SettingsError."""
    return from_environment(**options)


def read_for_operator(options: dict[str, Any]) -> Settings:
    """As `read`; without a REDIS_URL, that of the broker that `smartbatch up` started on this machine."""
    from smartbatch.deploy import broker_file

    settings = read(options)
    if broker_given(options) or settings.redis_password_file:
        return settings
    return msgspec.structs.replace(settings, redis_url=broker_file.find() or settings.redis_url)


def broker_given(options: dict[str, Any]) -> bool:
    return bool(options.get("redis_url") or os.environ.get("REDIS_URL"))


def read_for_server(options: dict[str, Any], who: str) -> Settings:
    """As `read`, for a process that serves: set up its log, and warn of variables that are misspelt settings."""
    if "json" in (options.get("log_format"), os.environ.get("LOG_FORMAT")):
        logs.set_up("json", "info", who)  # an invalid setting is a line of the log too
    settings = read(options)
    logs.set_up(settings.log_format, settings.log_level, who)
    if not startup_error.has_launcher():
        for name, near in near_misses(os.environ):
            log.warning("%s is not a setting and has no effect; did you mean %s?", name, near)
    return settings
