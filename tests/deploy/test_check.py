"""`smartbatch check` tries a model without a server: shapes, times, batch mates, and the user's own line in errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smartbatch.deploy.cli import main

ROOT = Path(__file__).parents[2]
MODELS = """
import torch
from torch import nn

import smartbatch


class Net(nn.Module):
    input = smartbatch.InputSpec(("tensor",), "float32", (4,))

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, batch):
        return self.layer(batch)


class Centred(Net):
    def forward(self, batch):
        return batch - batch.mean(0)


class Photos(nn.Module):
    input = smartbatch.InputSpec(("tensor",), "float32", (3, 16, 16))

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, batch):
        return self.layer(batch).mean((2, 3))


class Chance(Net):
    def forward(self, batch):
        return torch.rand_like(batch)


class Lengths:
    def decode(self, payload):
        if payload.kind != "text":
            raise smartbatch.InvalidInput(f"expected text, got {payload.kind}")
        return [torch.tensor([float(len(text))]) for text in payload.content]

    def forward(self, batch):
        return batch

    def encode(self, row):
        return {"length": float(row[0])}


class Sized(Net):
    def size(self, row):
        return len(row)


class Raw:
    input = smartbatch.InputSpec(("raw",))

    def forward(self, rows):
        return [len(row) for row in rows]


class BadForward(Net):
    def forward(self, batch):
        return batch @ torch.zeros(9, 9)  # BadForward


class BadLoad(Net):
    def load(self, device):
        self.weights = missing  # BadLoad


class BadDecode(Lengths):
    def decode(self, payload):
        return payload.contents  # BadDecode


class BadEncode(Lengths):
    def encode(self, row):
        return row[7]  # BadEncode
"""


class Check:
    """Runs `smartbatch check` in a folder with the models above."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        (folder / "my_models.py").write_text(MODELS)

    def __call__(self, name: str, *files: str, code: int = 0) -> str:
        """Check a model with up to 8 rows, and return what was printed."""
        inputs = [part for file in files for part in ("--input", str(self.folder / file))]
        with pytest.raises(SystemExit) as ended:
            main(["check", f"{self.folder}/my_models.py:{name}", "--max-batch-size", "8", *inputs])
        out, err = self.capsys.readouterr()
        assert ended.value.code == code, out + err
        return out + err

    def file(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return name


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    return Check(tmp_path, capsys)


def test_shapes_times_by_batch_size_and_batch_mates_are_shown(check: Check) -> None:
    text = check("Net", check.file("x.json", b'{"data": [[1, 2, 3, 4], [5, 6, 7, 8]]}'))
    assert "x.json: tensor float32 [2, 4] → 2 rows of float32 [4] → output float32 [2, 3]" in text
    assert [line.split()[0] for line in text.splitlines() if line.strip()[:1].isdigit()] == ["1", "2", "4", "8"]
    assert "batch mates: a row's result is the same alone and in any batch" in text


def test_without_a_file_the_models_own_example_runs(check: Check) -> None:
    assert "forward on cpu" in check("Net")
    text = check("Lengths", code=2)
    assert text == "smartbatch: Lengths has no example() and announces no shape; pass a file with --input\n"


def test_rows_with_a_size_are_measured_up_to_the_largest_batch(check: Check) -> None:
    text = check("Sized")
    assert [line.split()[0] for line in text.splitlines() if line.strip()[:1].isdigit()] == ["1", "2", "4", "8"]


def test_rows_that_change_each_others_results_are_exit_code_1(check: Check) -> None:
    text = check("Centred", code=1)
    assert "OTHER REQUESTS CHANGE A REQUEST'S RESULT" in text
    assert "forward on cpu" in text  # the times are shown all the same


def test_the_variants_of_a_users_network_are_shown(check: Check, caplog) -> None:
    text = check("Photos")
    assert "OPTIMIZE: channels_last is " in caplog.text and "times as fast as eager" in caplog.text
    assert "\nvariant: " in text


def test_why_a_network_allows_no_variant_is_shown(check: Check, caplog) -> None:
    check("Chance", code=1)
    assert "OPTIMIZE: the network serves as it is: the same input gave two outputs" in caplog.text


def test_rows_of_the_files_are_the_batch_mates_of_each_other(check: Check) -> None:
    files = [check.file(f"{text}.txt", text.encode()) for text in ("a", "bcd")]
    text = check("Lengths", *files)
    assert "bcd.txt: text ['bcd'] → 1 row of float32 [1] → values [{'length': 3.0}]" in text


@pytest.mark.parametrize(
    ("model", "name", "make", "shown"),
    [
        ("Net", "x.npy", lambda path: np.save(path, np.zeros((3, 4), np.float32)), "tensor float32 [3, 4] → 3 rows"),
        ("Raw", "x.bin", lambda path: path.write_bytes(b"\x00\x01\x02"), "3 → 1 row of bytes → values [3]"),
        ("Lengths", "x.json", lambda path: path.write_text('{"data": ["a", "b"]}'), "text ['a', 'b'] → 2 rows"),
    ],
)
def test_a_file_is_read_as_the_body_of_a_request(
    check: Check, model: str, name: str, make: Callable[[Path], None], shown: str
) -> None:
    make(check.folder / name)
    assert shown in check(model, name)


def test_an_image_goes_to_a_classifier(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options = ["--max-batch-size", "2", "--optimize", "none"]
        main(["check", "efficientnet_lite0", "--input", str(ROOT / "examples/cat.jpg"), *options])
    assert ended.value.code == 0
    assert "1 row of uint8 [3, 224, 224] → logits float32 [1, 1000]" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["BadForward", "BadLoad", "BadDecode", "BadEncode"])
def test_an_error_of_the_models_code_names_its_line(check: Check, model: str) -> None:
    file = check.file("x.json", b'{"data": [[1, 2, 3, 4]]}' if model != "BadEncode" else b'{"data": ["text"]}')
    text = check(model, file, code=2)
    line = next(number for number, code in enumerate(MODELS.splitlines(), 1) if code.endswith(f"# {model}"))
    assert f'File "{check.folder}/my_models.py", line {line}' in text
    assert text.splitlines()[-1].startswith("smartbatch: ")
    assert text.endswith(f"({check.folder}/my_models.py, line {line})\n")
    assert "smartbatch/" not in text.partition("Traceback")[2].partition("my_models.py")[0]  # begins at their code


@pytest.mark.parametrize(
    ("model", "name", "content", "text"),
    [
        ("Net", "x.json", b'{"data": [1, 2, 3]}', "invalid_input: the model takes 4 numbers per row"),
        ("Net", "x.txt", b"text", "unsupported_media: the model takes tensor"),
        ("Lengths", "x.json", b'{"data": [[1.0]]}', "invalid_input: expected text, got tensor"),
    ],
)
def test_input_that_clients_would_be_refused_is_one_line(
    check: Check, model: str, name: str, content: bytes, text: str
) -> None:
    shown = check(model, check.file(name, content), code=2)
    assert shown.startswith(f"smartbatch: {check.folder}/{name}: {text}")
    assert len(shown.splitlines()) == 1


def test_a_model_that_is_not_there_is_one_line(check: Check) -> None:
    assert "has no class 'Nett'" in check("Nett", code=2)
