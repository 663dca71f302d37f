"""One version of a model and how its workers are started: settings of theirs, by name, and how many."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from smartbatch.shared.errors import SettingsError, UnknownModel
from smartbatch.shared.keys import model_id
from smartbatch.shared.settings import Settings, from_environment

MAX_WORKERS = 64
# The settings that may differ between the workers of one system, as options of `smartbatch worker` and in files.
MODEL_SETTINGS = (
    "MODEL_PATH",
    "MODEL_NAME",
    "MODEL_VERSION",
    "MODEL_WEIGHTS",
    "REPLACE",
    "DEVICE",
    "DEVICE_SHARE",
    "DEVICE_WEIGHT",
    "DTYPE",
    "OPTIMIZE",
    "MAX_BATCH_SIZE",
    "MAX_WAIT_TIME",
    "WINDOW",
    "MAX_BATCH_BYTES",
    "MAX_BATCH_TOKENS",
    "POOL",
    "DECODE_THREADS",
    "TORCH_THREADS",
    "METRICS_PORT",
    "MAX_DELIVERIES",
    "MAX_IMAGE_PIXELS",
    "DEBUG_ERRORS",
    "STALL_TIMEOUT",
    "GRACE_TIME",
)
_SHORT = {"path": "model_path", "name": "model_name", "version": "model_version", "weights": "model_weights"}
_OWN = ("model_path", "model_name", "model_version", "model_weights")  # of one model, so never from the environment
FIELDS = (*_SHORT, "workers", *(name.lower() for name in MODEL_SETTINGS if name.lower() not in _OWN))


class ModelEntry(msgspec.Struct, frozen=True):
    """One version of a model. `changed`: the settings in which its workers differ from the other processes."""

    settings: Settings
    workers: int = 1
    changed: tuple[str, ...] = ()
    source: str = ""  # where it was found, for errors

    @property
    def id(self) -> str:
        return self.settings.model_id

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables of its workers that make them serve this model."""
        values = {name: getattr(self.settings, name) for name in (*_OWN, *self.changed)}
        values["model_name"] = self.settings.model
        return {name.upper(): _text(value) for name, value in values.items()}


def make_entry(base: Settings, fields: Mapping[str, Any], where: str) -> ModelEntry:
    """Make an entry of `fields`; `base` has the settings that they don't name. Raises SettingsError, which begins with
    `where` and names the field."""
    values: dict[str, Any] = dict.fromkeys(_OWN, "")  # "": the default
    for name, value in fields.items():
        if name not in FIELDS:
            raise SettingsError(f"{where}: {unknown(name, FIELDS)}")
        if name != "workers":
            values[_SHORT.get(name, name)] = _checked(name, value, where)
    if not values["model_path"]:
        raise SettingsError(f"{where}: path is missing, the model to serve (as MODEL_PATH)")
    settings = from_environment({}, **{**msgspec.structs.asdict(base), **values})
    entry = ModelEntry(settings, _workers(fields.get("workers", 1), where), tuple(values), where)
    try:
        entry.id  # noqa: B018 - it checks the name
    except UnknownModel as error:
        raise SettingsError(f"{where}: {error}") from None
    return entry


def fields_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that stand for settings by their own names in lower case."""
    short = {own: name for name, own in _SHORT.items()}
    return {short.get(name, name): value for name, value in settings.items()}


def check_unique(entries: Iterable[ModelEntry]) -> None:
    """Raise SettingsError if two entries have the same model ID."""
    found: dict[str, ModelEntry] = {}
    for entry in entries:
        if other := found.get(entry.id):
            raise SettingsError(
                f"{entry.id} is served twice: by {other.source} and by {entry.source}; give one of them another name "
                f"or version, like {model_id(entry.settings.model, entry.settings.model_version + 1)}"
            )
        found[entry.id] = entry


def unknown(name: str, known: Iterable[str]) -> str:
    """Say that a field is unknown, and which it may have been."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown field {name!r:.60}" + (
        f"; did you mean {near[0]}?" if near else f"; the fields are {', '.join(known)}"
    )


def names_file(model_path: str) -> bool:
    """Whether a MODEL_PATH is that of a file: `net.pt2` or `net.py:Class`."""
    return model_path.endswith(".pt2") or model_path.rpartition(":")[0].endswith(".py")


def located_path(model_path: str, folder: Path) -> str:
    """Return a MODEL_PATH whose file or folder is in `folder` with its absolute path; any other unchanged."""
    if model_path.startswith("hf:"):
        return "hf:" + located(model_path.removeprefix("hf:"), folder)
    if not names_file(model_path):
        return model_path
    file, colon, name = (model_path, "", "") if model_path.endswith(".pt2") else model_path.rpartition(":")
    return located(file, folder) + colon + name


def located(file: str, folder: Path) -> str:
    """Return the absolute path of a file or folder that is in `folder`; anything else unchanged."""
    return str((folder / file).absolute()) if file and (folder / file).exists() else file


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _checked(name: str, value: Any, where: str) -> Any:
    try:
        from_environment({}, **{_SHORT.get(name, name): value})
    except SettingsError as error:
        expected = str(error).partition(": ")[2]
        raise SettingsError(f"{where}: {name}: {expected}") from None
    return value


def _workers(value: Any, where: str) -> int:
    if type(value) is not int or not 1 <= value <= MAX_WORKERS:
        raise SettingsError(f"{where}: workers: expected a whole number from 1 to {MAX_WORKERS}, got {value!r}")
    return value
