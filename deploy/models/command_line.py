"""The models that `smartbatch up` serves: those of --model, --config and --models together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from smartbatch.deploy.models.config_file import read_config
from smartbatch.deploy.models.entry import ModelEntry, check_unique, make_entry
from smartbatch.deploy.models.option import parse_model
from smartbatch.deploy.models.repository import Repository
from smartbatch.shared.errors import SettingsError
from smartbatch.shared.settings import Settings

# Options that say something of one model, and how the same is written for each of several.
_OF_ONE = {
    "model_name": ("--name", "NAME=PATH"),
    "model_version": ("--model-version", "NAME@VERSION=PATH"),
    "model_weights": ("--weights", "a file of models (--config)"),
}


def models_of(
    settings: Settings,
    words: Sequence[str],
    config: Path | None,
    repository: Repository | None,
    workers: int,
    options: Mapping[str, str | None],
) -> list[ModelEntry]:
    """Return the models to serve; the first is the gateway's default. `options` are those that were given.

    One `--model PATH`, or none, is the model of the settings. Raises SettingsError.
    """
    parsed = [parse_model(word) for word in words]
    if len(parsed) <= 1 and not any(word.name for word in parsed) and not config and not repository:
        return [ModelEntry(settings, workers)]
    for name, (option, instead) in _OF_ONE.items():
        if given := options.get(name) or os.environ.get(name.upper()):
            raise SettingsError(
                f"{option} ({name.upper()}={given}) is of one model, but several may be served here: for each write "
                f"{instead}"
            )
    entries = [
        make_entry(settings, {**parsed_word.fields, "workers": workers}, f"--model {word}")
        for word, parsed_word in zip(words, parsed, strict=True)
    ]
    entries += read_config(config, settings, workers) if config else []
    entries += repository.all() if repository else []
    check_unique(entries)
    return entries
