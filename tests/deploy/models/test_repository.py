"""`--models DIR`: which versions of which models a repository serves, and how errors in it are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartbatch.deploy.models.entry import ModelEntry
from smartbatch.deploy.models.repository import Repository
from smartbatch.shared.errors import SettingsError
from smartbatch.shared.settings import Settings


def repository(folder: Path, files: dict[str, str]) -> Repository:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return Repository(folder, Settings(max_batch_size=7))


def served(entries: list[ModelEntry]) -> dict[str, str]:
    return {entry.id: entry.settings.model_path for entry in entries}


NET = {"net/1/model.pt2": "", "net/2/model.pt2": "", "net/10/model.pt2": ""}
CLASS = "from smartbatch import Model\nclass Net(Model):\n    def forward(self, batch): ...\n"


@pytest.mark.parametrize(
    ("file", "content", "path"),
    [
        ("model.pt2", "", "{}/model.pt2"),
        ("config.json", "{}", "hf:{}"),
        ("model.py", CLASS, "{}/model.py:Net"),
        ("model.py", "import smartbatch\nclass Net(smartbatch.Model): ...", "{}/model.py:Net"),
        (
            "model.py",
            f"import torch\nclass Layer(torch.nn.Module):\n def forward(self, x): ...\n{CLASS}",
            "{}/model.py:Net",
        ),
        ("model.py", "class Net:\n def forward(self, batch): ...\nclass Other: ...", "{}/model.py:Net"),
        ("model.toml", "path = 'resnet18'", "resnet18"),
        ("model.toml", "path = 'simulated:base_ms=4'", "simulated:base_ms=4"),
    ],
)
def test_what_is_in_a_version_folder_is_served(tmp_path: Path, file: str, content: str, path: str) -> None:
    found = repository(tmp_path, {f"net/3/{file}": content}).all()
    assert served(found) == {"net@3": path.format(tmp_path / "net/3")}


def test_a_path_of_model_toml_is_a_file_of_each_version(tmp_path: Path) -> None:
    files = {"net/model.toml": "path = 'net.py:Net'\nversion_policy = 'all'\nweights = 'w.pt'"}
    files |= {f"net/{version}/{name}": "" for version in (1, 2) for name in ("net.py", "w.pt")}
    found = repository(tmp_path, files).all()
    assert served(found) == {name: f"{tmp_path}/net/{v}/net.py:Net" for name, v in (("net", 1), ("net@2", 2))}
    assert [entry.settings.model_weights for entry in found] == [f"{tmp_path}/net/{v}/w.pt" for v in (1, 2)]


def test_fields_of_a_version_win_over_those_of_the_model(tmp_path: Path) -> None:
    files = {"net/model.toml": "workers = 2\nwindow = 'fixed'", "net/1/model.toml": "workers = 3", **NET}
    made = repository(tmp_path, files)
    first, second = made.entry("net", 1), made.entry("net", 2)
    assert (first.workers, first.settings.window, second.workers) == (3, "fixed", 2)
    assert first.settings.max_batch_size == 7
    assert made.entry("net", 1, {"workers": 5, "window": "adaptive"}).settings.window == "adaptive"


def test_class_chooses_between_several(tmp_path: Path) -> None:
    files = {"net/1/model.py": "class A:\n def forward(self, x): ...\nclass B(A): ...", "net/model.toml": "class = 'B'"}
    assert served(repository(tmp_path, files).all()) == {"net": f"{tmp_path}/net/1/model.py:B"}


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", [10]),
        ("{latest = 1}", [10]),
        ("{latest = 2}", [2, 10]),
        ("{latest = 9}", [1, 2, 10]),
        ("'all'", [1, 2, 10]),
        ("[2, 1]", [1, 2]),
    ],
)
def test_the_policy_selects_versions(tmp_path: Path, policy: str, versions: list[int]) -> None:
    files = {**NET, **({"net/model.toml": f"version_policy = {policy}"} if policy else {})}
    assert repository(tmp_path, files).selected("net") == versions


def test_other_folders_and_files_are_ignored_as_triton_does(tmp_path: Path) -> None:
    more = {"net/new/model.pt2": "", "net/02/model.pt2": "", "net/0/model.pt2": "", "net/labels.txt": "", "README": ""}
    more |= {".git/1/model.pt2": ""}
    assert list(served(repository(tmp_path, {**NET, **more}).all())) == ["net@10"]


def test_a_version_that_appears_later_is_found_when_it_is_asked_for(tmp_path: Path) -> None:
    made = repository(tmp_path, NET)
    repository(tmp_path, {"net/11/model.pt2": ""})
    assert made.entry("net", 11).id == "net@11"
    with pytest.raises(SettingsError, match="net/12: there is no such version; versions: 1, 2, 10, 11"):
        made.entry("net", 12)
    with pytest.raises(SettingsError, match="has no model other; it has net"):
        made.entry("other", 1)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"net/1/readme": ""}, "net/1: expected one of model.pt2, model.py or config.json .* found none of them"),
        ({"net/1/model.pt2": "", "net/1/model.py": ""}, "net/1: expected one of .* found model.pt2 and model.py"),
        ({"net/readme": ""}, "net: no version; expected a folder like .*/net/1"),
        ({"my net/1/model.pt2": ""}, "my net: a model name must be 1 to 128 characters .* got 'my net'"),
        ({**NET, "net/model.toml": "workers = 'x'"}, "net/10: workers: expected a whole number from 1 to 64, got 'x'"),
        ({**NET, "net/model.toml": "wokers = 2"}, "net/model.toml: unknown field 'wokers'; did you mean workers?"),
        (
            {**NET, "net/model.toml": "version = 2"},
            "net/model.toml: version is given by the folder, so not in this file",
        ),
        ({**NET, "net/model.toml": "x ="}, "net/model.toml: not valid TOML"),
        ({**NET, "net/10/model.toml": "version_policy = 'all'"}, "net/10/model.toml: unknown field 'version_policy'"),
        (
            {**NET, "net/model.toml": "version_policy = 3"},
            'version_policy: expected "all", {latest = 2} or a list like',
        ),
        ({**NET, "net/model.toml": "version_policy = {latest = 0}"}, "version_policy: expected .* got {'latest': 0}"),
        ({**NET, "net/model.toml": "version_policy = []"}, r"version_policy: expected .* got \[\]"),
        ({**NET, "net/model.toml": "version_policy = [1, 4, 3]"}, "version_policy: there is no version 3, 4"),
        ({**NET, "net/model.toml": "path = 'x.pt2'"}, "net/10: path: there is no file .*/net/10/x.pt2"),
        ({**NET, "net/model.toml": "path = 5"}, "net/10: path: expected a text, got 5"),
        ({"net/1/model.py": "class A: ..."}, "model.py: expected one model class, found none; name it in model.toml"),
        ({"net/1/model.py": CLASS + CLASS.replace("Net", "B")}, "expected one model class, found Net, B"),
        ({"net/1/model.py": "class"}, "model.py: can't be read: invalid syntax"),
        (
            {"net/1/model.py": CLASS, "net/model.toml": "class = 'a b'"},
            "class: expected the name of a class, got 'a b'",
        ),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, files: dict[str, str], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        repository(tmp_path, files).all()


def test_all_errors_are_listed_at_once(tmp_path: Path) -> None:
    files = {"good/1/model.pt2": "", "bad/1/readme": "", "worse/model.toml": "x =", "worse/1/model.pt2": ""}
    with pytest.raises(SettingsError) as raised:
        repository(tmp_path, files).all()
    lines = str(raised.value).splitlines()
    assert lines[0] == f"the model repository {tmp_path} is not valid:"
    assert [line.partition(":")[0].removeprefix(f"{tmp_path}/") for line in lines[1:]] == ["bad/1", "worse/model.toml"]


def test_an_empty_or_absent_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="it has no model; expected folders like net/1/"):
        repository(tmp_path, {}).all()
    with pytest.raises(SettingsError, match="there is no such folder"):
        Repository(tmp_path / "none", Settings()).all()
