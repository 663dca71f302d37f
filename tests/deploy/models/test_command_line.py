"""The models of --model, --config and --models together."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartbatch.deploy.models.command_line import models_of
from smartbatch.deploy.models.repository import Repository
from smartbatch.shared.errors import SettingsError
from smartbatch.shared.settings import Settings

ONE = Settings(model_path="simulated", model_name="one", model_version=3)


def test_one_path_is_the_model_of_the_settings() -> None:
    for words in ([], ["simulated"]):
        [entry] = models_of(ONE, words, None, None, 2, {"model_name": "one"})
        assert (entry.id, entry.workers, entry.settings) == ("one@3", 2, ONE)


def test_several_are_served_in_their_order(tmp_path: Path) -> None:
    (config := tmp_path / "models.toml").write_text("[[models]]\npath = 'net.pt2'\nworkers = 5")
    (tmp_path / "repository/bert/4").mkdir(parents=True)
    (tmp_path / "repository/bert/4/config.json").touch()
    repository = Repository(tmp_path / "repository", Settings(), 2)
    words = ["resnet18", "m@2=simulated:base_ms=4"]
    entries = models_of(Settings(), words, config, repository, 2, {})
    assert [(entry.id, entry.workers) for entry in entries] == [("resnet18", 2), ("m@2", 2), ("net", 5), ("bert@4", 2)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model_name", r"--name \(MODEL_NAME=x\) is of one model, .* for each write NAME=PATH"),
        ("model_version", r"--model-version \(MODEL_VERSION=x\) is of one model, .* for each write NAME@VERSION=PATH"),
        ("model_weights", r"--weights \(MODEL_WEIGHTS=x\) is of one model, .* for each write a file of models"),
    ],
)
def test_what_is_of_one_model_is_refused_with_several(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["resnet18", "resnet50"], ["m=resnet18"]):
        with pytest.raises(SettingsError, match=text):
            models_of(Settings(), words, None, None, 1, {name: "x"})
    monkeypatch.setenv(name.upper(), "x")
    with pytest.raises(SettingsError, match=text):
        models_of(Settings(), ["resnet18", "resnet50"], None, None, 1, {})


def test_one_model_id_in_two_places_is_an_error(tmp_path: Path) -> None:
    (config := tmp_path / "models.toml").write_text("[[models]]\npath = 'a/net.pt2'")
    with pytest.raises(
        SettingsError, match=r"net is served twice: by --model net=resnet18 and by .*models.toml: model 1"
    ):
        models_of(Settings(), ["net=resnet18"], config, None, 1, {})
