"""`--models DIR`: a model repository in Triton's layout.

    DIR/net/1/model.pt2
    DIR/net/2/model.pt2
    DIR/net/model.toml          optional: version_policy, and the fields of ModelEntry for all versions
    DIR/net/2/model.toml        optional: the fields of this version

What a version's folder serves is said by `path` (a file in that folder, or any MODEL_PATH), or else by what is there:
`model.pt2`, `model.py` with one model class (or `class` says which), or `config.json` of a Hugging Face folder.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smartbatch.deploy.models.config_file import read_toml
from smartbatch.deploy.models.entry import (
    FIELDS,
    ModelEntry,
    located,
    located_path,
    make_entry,
    names_file,
    unknown,
)
from smartbatch.shared.errors import SettingsError, UnknownModel
from smartbatch.shared.keys import check_model_name, model_id, parse_version
from smartbatch.shared.settings import Settings

FILE = "model.toml"
_POLICY = "version_policy"
_IN_FOLDER = ("name", "version")  # said by the names of the folders
_KNOWN = ("class", *(name for name in FIELDS if name not in _IN_FOLDER))


class Repository:
    """Read when it is asked, so that versions which were added since are found. Nothing is written."""

    def __init__(self, folder: Path, base: Settings, workers: int = 1) -> None:
        self.folder = folder
        self._base = base
        self._workers = workers

    def all(self) -> list[ModelEntry]:
        """Return the versions of all models that their policies select. Raises SettingsError with all that is wrong."""
        if not self.folder.is_dir():
            raise SettingsError(f"--models {self.folder}: there is no such folder")
        entries: list[ModelEntry] = []
        wrong: list[str] = []
        for name in self.names():
            try:
                check_model_name(name)
                versions = self.selected(name)
            except (SettingsError, UnknownModel) as error:
                wrong.append(str(error) if isinstance(error, SettingsError) else f"{self.folder / name}: {error}")
                continue
            for version in versions:
                try:
                    entries.append(self.entry(name, version))
                except SettingsError as error:
                    wrong.append(str(error))
        if not entries and not wrong:
            wrong = ["it has no model; expected folders like net/1/ with a model.pt2, model.py or config.json"]
        if wrong:
            raise SettingsError("\n".join([f"the model repository {self.folder} is not valid:", *wrong]))
        return entries

    def model_ids(self) -> list[str]:
        """Return the IDs of all versions of all models, also of those that can't be loaded as they are."""
        found = []
        for name in self.names():
            with contextlib.suppress(UnknownModel, OSError):
                found += [model_id(name, version) for version in _versions(self.folder / check_model_name(name))]
        return found

    def names(self) -> list[str]:
        return sorted(each.name for each in self.folder.iterdir() if each.is_dir() and not each.name.startswith("."))

    def selected(self, name: str) -> list[int]:
        """Return the versions of a model that its policy selects, in order. Raises SettingsError."""
        folder = self._folder_of(name)
        versions = _versions(folder)
        if not versions:
            raise SettingsError(f"{folder}: no version; expected a folder like {folder / '1'}")
        return _select(versions, self._model_fields(name).get(_POLICY, {"latest": 1}), folder / FILE)

    def entry(self, name: str, version: int, more: Mapping[str, Any] | None = None) -> ModelEntry:
        """Return one version of a model; `more` are fields that win over those of its files. Raises SettingsError."""
        folder = self._folder_of(name) / str(version)
        if not folder.is_dir():
            known = ", ".join(map(str, _versions(folder.parent))) or "none"
            raise SettingsError(f"{folder}: there is no such version; versions: {known}")
        fields = {**self._model_fields(name), **_fields(folder / FILE, _KNOWN)}
        fields.pop(_POLICY, None)
        fields["path"] = _path(folder, fields)
        fields.pop("class", None)
        if isinstance(weights := fields.get("weights"), str):
            fields["weights"] = located(weights, folder)
        fields = {"workers": self._workers, **fields, **(more or {}), "name": name, "version": version}
        return make_entry(self._base, fields, str(folder))

    def _folder_of(self, name: str) -> Path:
        folder = self.folder / name
        if not folder.is_dir():
            known = ", ".join(self.names()) or "none"
            raise SettingsError(f"the repository {self.folder} has no model {name}; it has {known}")
        return folder

    def _model_fields(self, name: str) -> dict[str, Any]:
        return _fields(self.folder / name / FILE, (_POLICY, *_KNOWN))


def _versions(folder: Path) -> list[int]:
    """Return the versions that a model's folder has; folders with other names are ignored, as Triton does."""
    found = []
    for each in folder.iterdir():
        try:
            found += [parse_version(each.name)] if each.is_dir() else []
        except UnknownModel:
            continue
    return sorted(found)


def _select(versions: Sequence[int], policy: Any, file: Path) -> list[int]:
    is_number = lambda value: type(value) is int and value > 0  # noqa: E731
    match policy:
        case "all":
            return list(versions)
        case {"latest": count} if is_number(count) and len(policy) == 1:
            return list(versions[-count:])
        case [*listed] if listed and all(map(is_number, listed)):
            if missing := sorted(set(listed) - set(versions)):
                raise SettingsError(f"{file}: {_POLICY}: there is no version {', '.join(map(str, missing))}")
            return sorted(set(listed))
    raise SettingsError(f'{file}: {_POLICY}: expected "all", {{latest = 2}} or a list like [1, 3], got {policy!r:.60}')


def _fields(file: Path, known: Sequence[str]) -> dict[str, Any]:
    """Return the fields of an optional file."""
    if not file.exists():
        return {}
    fields = read_toml(file)
    for name in fields:
        if name in _IN_FOLDER:
            raise SettingsError(f"{file}: {name} is given by the folder, so not in this file")
        if name not in known:
            raise SettingsError(f"{file}: {unknown(name, known)}")
    return fields


def _path(folder: Path, fields: dict[str, Any]) -> Any:
    """Return the MODEL_PATH of a version."""
    if "path" in fields:
        path = fields["path"]
        if not isinstance(path, str):
            return path  # `make_entry` says what it must be
        found = located_path(path, folder)
        if found == path and names_file(path) and not Path(path).is_absolute():
            raise SettingsError(f"{folder}: path: there is no file {folder / path.partition(':')[0]}")
        return found
    candidates = [name for name in ("model.pt2", "model.py", "config.json") if (folder / name).is_file()]
    if len(candidates) != 1:
        raise SettingsError(
            f"{folder}: expected one of model.pt2, model.py or config.json (Hugging Face), or `path` in {FILE}; "
            f"found {' and '.join(candidates) or 'none of them'}"
        )
    file = (folder / candidates[0]).absolute()
    if file.name == "model.py":
        return f"{file}:{_class_of(file, fields.get('class'))}"
    return f"hf:{file.parent}" if file.name == "config.json" else str(file)


def _class_of(file: Path, named: Any) -> str:
    """Return the name of the model class of a file: `named`, or the only one. The file is parsed and not run."""
    if named is not None:
        if not isinstance(named, str) or not named.isidentifier():
            raise SettingsError(f"{file}: class: expected the name of a class, got {named!r:.60}")
        return named
    try:
        statements = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError, OSError) as error:
        raise SettingsError(f"{file}: can't be read: {error}") from None
    classes = [each for each in statements if isinstance(each, ast.ClassDef)]
    found = [each.name for each in classes if any(_name(base) == "Model" for base in each.bases)]
    found = found or [each.name for each in classes if any(_defines(each, name) for name in ("forward", "network"))]
    if len(found) != 1:
        raise SettingsError(
            f"{file}: expected one model class, found {', '.join(found) or 'none'}; name it in {FILE}: class = …"
        )
    return found[0]


def _name(base: ast.expr) -> str:
    return base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""


def _defines(each: ast.ClassDef, name: str) -> bool:
    return any(isinstance(member, ast.FunctionDef) and member.name == name for member in each.body)
