"""The words of `smartbatch up --model [NAME[@VERSION]=]PATH`."""

from __future__ import annotations

import re
from typing import NamedTuple

from smartbatch.shared.errors import SettingsError, UnknownModel
from smartbatch.shared.keys import split_model_id

# What may stand before the first `=` if it is to name the model. A path has `/` or `:` there, or no `=` at all:
# `simulated:base_ms=4`, `runs/lr=0.1/net.pt2`. A file `a=b.pt2` of the working directory is written `./a=b.pt2`.
_ID = re.compile(r"[A-Za-z0-9._-]+(?:@[^/:]*)?")


class ModelWord(NamedTuple):
    """`name` is empty and `version` 1 if the word is a path alone."""

    name: str
    version: int
    path: str

    @property
    def fields(self) -> dict[str, str | int]:
        return {"name": self.name, "version": self.version, "path": self.path}


def parse_model(word: str) -> ModelWord:
    """Raise SettingsError if the version or the path can't be one."""
    head, equals, path = word.partition("=")
    if not equals or not _ID.fullmatch(head):
        return ModelWord("", 1, word)
    if not path:
        raise SettingsError(f"--model {word}: expected a path after {head}=, as in {head}=net.pt2")
    try:
        return ModelWord(*split_model_id(head), path)
    except UnknownModel as error:
        raise SettingsError(f"--model {word}: {error}") from None
