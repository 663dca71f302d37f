"""No file of ours executes data that it reads: its syntax tree contains no pickle, eval or similar call.

Also the two statements of docs/security.md about files that may be code.
"""

from __future__ import annotations

import ast
import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from smartbatch.shared.errors import ModelLoadError
from smartbatch.worker.core.model import LoadContext
from smartbatch.worker.core.weights import read_state_dict
from smartbatch.worker.models.exported import Exported

ROOT = Path(__file__).parents[1]
PACKAGES = ("gateway", "worker", "shared", "deploy", "loadtest", "examples")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "dill.loads"),
    *("joblib.load", "cloudpickle.load", "cloudpickle.loads", "pandas.read_pickle", "torch.jit.load", "torch.hub.load"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "msgpack.unpack", "tarfile.open"),
}


def name_of(node: ast.expr) -> str:
    """Return the target of a call as `a.b.c`, as far as it consists of names."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def dangers(source: str) -> list[str]:
    """Return every call in `source` that could execute data, by line."""
    found = []
    aliases: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        head, dot, rest = name_of(node.func).partition(".")
        name = aliases.get(head, head) + dot + rest
        options = {keyword.arg: keyword.value for keyword in node.keywords}
        literals = {arg: value.value for arg, value in options.items() if isinstance(value, ast.Constant)}
        if (
            name in FORBIDDEN_CALLS
            or (name == "torch.load" and literals.get("weights_only") is not True)
            or (name in ("np.load", "numpy.load") and literals.get("allow_pickle", False) is not False)
            or ("shell" in options and literals.get("shell") is not False)
        ):
            found.append(f"line {node.lineno}: {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_calls_nothing_that_runs_what_it_reads(path: Path) -> None:
    assert dangers(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b)",
        "from pickle import loads as read\nread(b)",
        "import pickle as p\np.load(f)",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "import torch\ntorch.load(f, weights_only=sure)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import yaml\nyaml.load(f)",
        "eval(x)",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import os\nos.system(x)",
    ],
)
def test_the_check_finds_dangerous_calls(source: str) -> None:
    assert len(dangers(source)) == 1


def test_the_check_accepts_safe_calls() -> None:
    safe = "import torch, numpy as np, subprocess\ntorch.load(f, weights_only=True)\nnp.load(f)\nsubprocess.run(['ls'])"
    assert dangers(safe) == []


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return Path.touch, (self._path,)


def test_a_weight_file_is_never_code(tmp_path: Path) -> None:
    went_off, file = tmp_path / "went off", tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(1), "bomb": Bomb(went_off)}, file)
    with pytest.raises(ModelLoadError, match="is not a plain state dict"):
        read_state_dict(str(file))
    file.write_bytes(pickle.dumps(Bomb(went_off), protocol=2))  # torch's own
    with pytest.raises(ModelLoadError, match="is not a plain state dict"):
        read_state_dict(str(file))
    assert not went_off.exists()


def test_an_exported_program_is_code(tmp_path: Path) -> None:
    """torch.export.load unpickles parts of the file with all of pickle's powers. Should this fail one day, torch has
    changed that, and docs/security.md may say so."""
    went_off, file = tmp_path / "went off", tmp_path / "net.pt2"
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, file)
    bomb = io.BytesIO()
    torch.save((Bomb(went_off),), bomb)
    armed = tmp_path / "armed.pt2"
    with zipfile.ZipFile(file) as before, zipfile.ZipFile(armed, "w") as after:
        for member in before.namelist():
            after.writestr(member, bomb.getvalue() if "sample_inputs" in member else before.read(member))
    context = LoadContext(device="cpu")
    with pytest.raises(Exception):  # noqa: B017 - whatever torch makes of what is left
        Exported(str(armed)).load(context)
    assert went_off.exists()
