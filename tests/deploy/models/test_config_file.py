"""`--config models.toml`"""

from __future__ import annotations

from pathlib import Path

import pytest

from smartbatch.deploy.models.config_file import read_config
from smartbatch.shared.errors import SettingsError
from smartbatch.shared.settings import Settings

MODELS = """
[[models]]
name = "iris"
path = "examples/tabular.py:Iris"
max_wait_time = 0.002

[[models]]
name = "iris"
version = 2
path = "iris-v2.pt2"
workers = 2
"""


def test_models_are_read_in_their_order(tmp_path: Path) -> None:
    (file := tmp_path / "models.toml").write_text(MODELS)
    first, second = read_config(file, Settings(), workers=3)
    assert (first.id, first.workers, first.settings.max_wait_time) == ("iris", 3, 0.002)
    assert (second.id, second.workers, second.settings.model_path) == ("iris@2", 2, "iris-v2.pt2")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", r"models.toml: expected one \[\[models\]\] table per model, got None"),
        ("models = []", r"expected one \[\[models\]\] table per model, got \[\]"),
        ("[models]\nname = 'iris'", "expected one .* got {'name': 'iris'}"),
        ("[[model]]\nname = 'iris'", "models.toml: unknown field 'model'; did you mean models?"),
        ("[[models]", "models.toml: not valid TOML: "),
        ("[[models]]\nname = 'iris'\npth = 'x'", "models.toml: model iris: unknown field 'pth'; did you mean path?"),
        ("[[models]]\npath = 'x'\n[[models]]\nname = 'iris'", "models.toml: model iris: path is missing"),
        ("[[models]]\npath = 'x'\npool = 'big'", "models.toml: model 1: pool: expected a whole number .* got 'big'"),
    ],
)
def test_a_wrong_file_is_told_where_it_is_wrong(tmp_path: Path, content: str, text: str) -> None:
    (file := tmp_path / "models.toml").write_text(content)
    with pytest.raises(SettingsError, match=text):
        read_config(file, Settings())


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none.toml: can't be read: No such file or directory"):
        read_config(tmp_path / "none.toml", Settings())
    (file := tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"binary.toml: can't be read: .* decode byte 0xff"):
        read_config(file, Settings())
