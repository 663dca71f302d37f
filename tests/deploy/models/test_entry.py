"""Entries of models: which settings their workers get, and what a wrong field is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smartbatch.deploy.models.entry import ModelEntry, check_unique, located_path, make_entry
from smartbatch.shared.errors import SettingsError
from smartbatch.shared.settings import Settings

BASE = Settings(model_path="resnet18", model_name="other", model_weights="w.pt", max_batch_size=7, device="cpu")


def test_an_entry_has_its_own_settings_and_else_those_of_the_system() -> None:
    fields = {"name": "iris", "version": 2, "path": "a.py:Iris", "workers": 3, "window": "fixed", "replace": True}
    entry = make_entry(BASE, fields, "x")
    assert (entry.id, entry.workers) == ("iris@2", 3)
    assert (entry.settings.window, entry.settings.max_batch_size, entry.settings.device) == ("fixed", 7, "cpu")
    assert entry.environ == {
        "MODEL_PATH": "a.py:Iris",
        "MODEL_NAME": "iris",
        "MODEL_VERSION": "2",
        "MODEL_WEIGHTS": "default",
        "WINDOW": "fixed",
        "REPLACE": "true",
    }


def test_name_version_and_weights_never_come_from_the_system() -> None:
    entry = make_entry(BASE, {"path": "dir/net.pt2"}, "x")
    assert (entry.id, entry.settings.model_weights, entry.workers) == ("net", "default", 1)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "m.toml: path is missing, the model to serve"),
        ({"path": ""}, "m.toml: path is missing"),
        ({"path": "x", "max_batchsize": 3}, "m.toml: unknown field 'max_batchsize'; did you mean max_batch_size?"),
        ({"path": "x", "port": 80}, "m.toml: unknown field 'port'; the fields are path, name, version, weights, work"),
        ({"path": "x", "model_name": "y"}, "m.toml: unknown field 'model_name'"),
        ({"path": 5}, "m.toml: path: expected a text, got 5"),
        ({"path": "x", "version": 0}, "m.toml: version: expected a whole number from 1 to 999999999, got 0"),
        (
            {"path": "x", "max_batch_size": "many"},
            "max_batch_size: expected a whole number from 1 to 65536, got 'many'",
        ),
        ({"path": "x", "max_wait_time": -1}, "max_wait_time: expected a number of seconds from 0 to 60, got -1"),
        ({"path": "x", "dtype": "int8"}, "dtype: expected float32, float16 or bfloat16, got 'int8'"),
        ({"path": "x", "pool": [1]}, r"pool: expected a whole number from 0 to 65536, got \[1\]"),
        ({"path": "x", "workers": 0}, "workers: expected a whole number from 1 to 64, got 0"),
        ({"path": "x", "workers": "2"}, "workers: expected a whole number from 1 to 64, got '2'"),
        ({"path": "x", "workers": True}, "workers: expected a whole number from 1 to 64, got True"),
        ({"path": "x", "name": "a b"}, "m.toml: a model name must be 1 to 128 characters .* got 'a b'"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        make_entry(BASE, fields, "m.toml")


def test_one_model_id_is_served_once() -> None:
    entries = [make_entry(BASE, {"path": path}, f"--model {path}") for path in ("a/net.pt2", "b/net.pt2")]
    text = "^net is served twice: by --model a/net.pt2 and by --model b/net.pt2; give one .* another .* like net@2$"
    with pytest.raises(SettingsError, match=text):
        check_unique(entries)
    check_unique([entries[0], ModelEntry(Settings(model_path="net.pt2", model_version=2))])


def test_files_of_a_folder_are_located_there_and_other_paths_are_left_alone(tmp_path: Path) -> None:
    for name in ("net.pt2", "net.py", "resnet18"):
        (tmp_path / name).touch()
    (tmp_path / "bert").mkdir()
    paths = ["net.pt2", "net.py:Net", "hf:bert", "resnet18", "absent.pt2", "hf:org/name", "module:Net", "simulated:a=1"]
    assert [located_path(path, tmp_path) for path in paths] == [
        f"{tmp_path}/net.pt2",
        f"{tmp_path}/net.py:Net",
        f"hf:{tmp_path}/bert",
        *paths[3:],
    ]
