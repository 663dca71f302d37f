"""`--config models.toml`: a file that lists models.

    [[models]]
    name = "iris"
    version = 2
    path = "examples/tabular.py:Iris"
    workers = 2
    max_batch_size = 16

Fields are those of `ModelEntry`. Paths are relative to the working directory, as on the command line.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from smartbatch.deploy.models.entry import ModelEntry, make_entry, unknown
from smartbatch.shared.errors import SettingsError
from smartbatch.shared.settings import Settings


def read_config(file: Path, base: Settings, workers: int = 1) -> list[ModelEntry]:
    """Return the models of a file, in its order. `workers`: of models that don't say it. Raises SettingsError."""
    content = read_toml(file)
    for name in content:
        if name != "models":
            raise SettingsError(f"{file}: {unknown(name, ['models'])}")
    tables = content.get("models")
    if not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
        raise SettingsError(f"{file}: expected one [[models]] table per model, got {tables!r:.60}")
    return [
        make_entry(base, {"workers": workers, **fields}, f"{file}: model {fields.get('name', number)!s:.60}")
        for number, fields in enumerate(tables, 1)
    ]


def read_toml(file: Path) -> dict[str, Any]:
    """Return the content of a file. Raises SettingsError."""
    try:
        return tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: can't be read: {getattr(error, 'strerror', error)}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: not valid TOML: {error}") from None
