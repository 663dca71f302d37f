"""The public interface: `import smartbatch`, a model in a user's file, `python my_model.py`."""

# pyright: reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import torch
from torch import nn

import smartbatch
from smartbatch import InputSpec, client
from smartbatch.deploy.ports import free_port
from smartbatch.shared.errors import ModelLoadError, SettingsError
from smartbatch.worker.models import LoadContext, resolve
from tests.brokers import eventually

ROOT = Path(__file__).parents[1]
DOUBLER = """
import smartbatch

class Doubler:
    input = smartbatch.InputSpec(("tensor",), "float32", (2,))

    def forward(self, batch):
        return batch * 2

if __name__ == "__main__":
    smartbatch.serve(Doubler, port=PORT, max_batch_size=7)
"""
PREDICT = {"json": {"data": [[1, 2]]}, "headers": {"accept": "application/json"}}


@contextmanager
def running(folder: Path, command: list[str], port: int, environ: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """Run a command in `folder` during the block, which starts once its server is ready. Yield its log."""
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env=environ)
    try:

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(ready, 60)
        yield log
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_interface_is_these_names() -> None:
    names = [
        "InputSpec",
        "InvalidInput",
        "Model",
        "OutputSpec",
        "Payload",
        "Tensor",
        "__version__",
        "serve",
        "to_torch",
    ]
    assert smartbatch.__all__ == names
    assert all(hasattr(smartbatch, name) for name in names)
    assert client.__all__ == ["AsyncClient", "Client", "Options", "Prediction", "errors"]


def test_examples_import_only_the_public_interface() -> None:
    for path in (ROOT / "examples").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("smartbatch."), path
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("smartbatch.") for alias in node.names), path


def test_the_wheel_holds_the_server_as_one_package_with_its_files(tmp_path: Path) -> None:
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", *options, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"smartbatch"}
    ours = [path for folder in ("gateway", "worker", "shared", "deploy") for path in (ROOT / folder).rglob("*")]
    code = {f"smartbatch/{path.relative_to(ROOT)}" for path in ours if path.suffix in {".py", ".lua", ".cpp", ".js"}}
    assert code - set(names) == {"smartbatch/deploy/docker/worker_health.py"}  # copied into the image as a script


def test_a_class_in_a_file_is_a_server_by_itself(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "my_model.py").write_text(DOUBLER.replace("PORT", str(port)))
    with running(tmp_path, [sys.executable, "my_model.py"], port):
        response = httpx.post(f"http://127.0.0.1:{port}/predict", **PREDICT).json()
        assert response["model"] == "Doubler"
        assert response["outputs"]["output"]["data"] == [[2.0, 4.0]]
        workers = httpx.get(f"http://127.0.0.1:{port}/stats").json()["models"]["Doubler"]["workers"]
        assert [worker["max_batch_size"] for worker in workers.values()] == [7]


def test_user_files_named_like_our_packages_have_no_effect(tmp_path: Path) -> None:
    for name in ("worker.py", "gateway.py", "deploy.py", "queue.py"):
        (tmp_path / name).write_text("raise RuntimeError('a file of the user')\n")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/__init__.py").write_text("raise RuntimeError('a package of the user')\n")
    (tmp_path / "my_model.py").write_text(DOUBLER)
    port = free_port()
    smartbatch_command = str(Path(sys.executable).with_name("smartbatch"))
    command = [smartbatch_command, "up", "--port", str(port), "--model", "my_model.py:Doubler"]
    with running(tmp_path, command, port) as log:
        assert httpx.post(f"http://127.0.0.1:{port}/predict", **PREDICT).status_code == 200
        assert "of the user" not in log.read_text()


class OneInput:
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch * 2


class NamedInputs:
    input: ClassVar = {
        "words": InputSpec(("text",)),
        "numbers": InputSpec(("tensor",), "float32", (2,)),
    }

    def decode(self, inputs):
        numbers = smartbatch.to_torch(inputs["numbers"].content)
        return [{"words": word, "numbers": row} for word, row in zip(inputs["words"].content, numbers, strict=True)]

    def forward(self, words: list[str], numbers: torch.Tensor) -> list[float]:
        return [len(word) + float(row.sum()) for word, row in zip(words, numbers, strict=True)]


class OneDict(NamedInputs):
    def forward(self, batch: dict[str, Any]) -> list[float]:
        return super().forward(**batch)


class Module(nn.Module):
    def forward(self, photo: torch.Tensor, *, numbers: torch.Tensor) -> torch.Tensor:
        return photo + numbers


class Derived(smartbatch.Model):
    def forward(self, photo: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return photo + numbers


class Function:
    forward = staticmethod(torch.add)


class NoModel:
    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        return batch


# `make check` checks the types of these.
MODELS: list[type[smartbatch.Model]] = [OneInput, NamedInputs, OneDict, Module, Derived, Function]
OTHERS: list[type[smartbatch.Model]] = [NoModel]  # pyright: ignore[reportAssignmentType]


@pytest.mark.parametrize("model", MODELS)
def test_a_class_that_a_type_checker_accepts_is_loaded(model: type[smartbatch.Model]) -> None:
    loaded = resolve(f"{__name__}:{model.__name__}")
    loaded.load(LoadContext(device="cpu", torch_threads=1))
    assert [spec.name for spec in loaded.inputs] == list(getattr(model, "input", {}))


@pytest.mark.parametrize("model", OTHERS)
def test_a_class_that_a_type_checker_refuses_is_not_loaded(model: type[smartbatch.Model]) -> None:
    with pytest.raises(ModelLoadError, match="forward"):
        resolve(f"{__name__}:{model.__name__}").load(LoadContext(device="cpu", torch_threads=1))


def test_an_unknown_setting_is_rejected_with_the_nearest_name() -> None:
    class Echo:
        def forward(self, batch):
            return batch

    with pytest.raises(SettingsError, match=r"serve\(\) has no setting 'max_batchsize'; did you mean max_batch_size\?"):
        smartbatch.serve(Echo, max_batchsize=4)


def test_a_model_is_loaded_from_a_file_wherever_it_is(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text(DOUBLER)
    model = resolve(f"{tmp_path}/twice.py:Doubler")
    model.load(LoadContext(device="cpu", torch_threads=1))
    assert model.input.shape == (2,)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("{}/none.py:Net", "there is no file {}/none.py"),
        ("{}/twice.py", "which class of the file\\? Name it: {}/twice.py:Class"),
        ("{}/twice", "which class of {}/twice.py\\? Name it: {}/twice.py:Class"),
        ("{}/twice.py:Triple", "twice.py has no class 'Triple'; classes with a forward: Doubler$"),
        ("{}/twice.py:double", "double is a function of batch; .* class Model: forward = staticmethod\\(double\\)$"),
        ("{}/twice.py:size", "size is an object of class int, which has no forward; classes with a forward: Doubler$"),
        ("{}/twice:Doubler", "a file is named with its ending: {}/twice.py:Doubler"),
        ("net.pt", "--model my_model.py:Net --weights net.pt"),
        ("{}/net.safetensors", "save the model with torch.export"),
    ],
)
def test_a_model_file_that_cannot_be_loaded_says_why(tmp_path: Path, path: str, text: str) -> None:
    (tmp_path / "twice.py").write_text(f"{DOUBLER}\n\ndef double(batch): ...\n\n\nsize = 3\n")
    with pytest.raises(ModelLoadError, match=text.replace("{}", str(tmp_path))):
        resolve(path.replace("{}", str(tmp_path)))


def test_markup_in_a_models_name_is_shown_as_it_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "smartbatch.deploy.cli", "up", "--port", "0", "--model", "nope:X:[red]"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "MODEL_PATH=nope:X:[red]" in ended.stderr
