"""Networks compiled by Inductor: in a separate process, cached, and never used unchecked."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from smartbatch.worker.models import LoadContext, resolve
from smartbatch.worker.models.torch_model import TorchModel
from smartbatch.worker.optimization import inductor, trees
from smartbatch.worker.optimization.inductor import CompileJob, Inductor
from smartbatch.worker.optimization.network import ServedNetwork
from smartbatch.worker.optimization.variants import VariantSelector

NAME = "squeezenet1_1"  # the smallest
CPU = torch.device("cpu")


def order(folder: Path, model_path: str = NAME) -> CompileJob:
    return CompileJob(model_path, "cpu", "float32", "random" if model_path == NAME else "default", 1, str(folder))


def example(rows: int) -> torch.Tensor:
    return torch.ones(rows, 3)


def selector() -> VariantSelector:
    return VariantSelector(nn.Identity(), example, 2)


def loaded(model_path: str) -> ServedNetwork:
    model = resolve(model_path)
    model.load(LoadContext("cpu", weights="random" if model_path == NAME else "default", torch_threads=1))
    assert isinstance(model, TorchModel) and model.network is not None
    return model.network


@pytest.mark.extended
@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("g++"), reason="Inductor takes a C++ compiler, and there is no g++")
def test_a_compiled_network_matches_eager_for_any_number_of_rows(tmp_path: Path) -> None:
    network = loaded(NAME)
    folder = tmp_path / network.key()
    inductor.run_compiler(order(folder))
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name, f"{folder.name}.lock"]
    with torch.inference_mode():
        compiled = inductor.load(folder, CPU, network.eager, network.example(1))
        for rows in (1, 2, 5):
            expected = network.eager(network.example(rows))
            assert (compiled(network.example(rows)) - expected).abs().max() / expected.abs().max() < 1e-4
    made_at = (folder / inductor.LIBRARY).stat().st_mtime_ns
    inductor.run_compiler(order(folder))
    assert (folder / inductor.LIBRARY).stat().st_mtime_ns == made_at  # another worker requested the same


@pytest.mark.parametrize("limit_s", [0.0, 10.0])  # at once, and while it compiles
def test_the_compiling_process_ends_with_its_worker_and_leaves_no_files(tmp_path: Path, limit_s: float) -> None:
    with pytest.raises(RuntimeError, match="the compiler exited with 1: signal 9"):
        inductor.run_compiler(order(tmp_path / loaded(NAME).key()), limit_s=limit_s)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_failed_compiling_process_reports_the_reason(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"the compiler exited with 1: .*unknown model 'resnet1818'"):
        inductor.run_compiler(order(tmp_path / "net", "resnet1818"))


def test_without_a_compiler_inductor_is_skipped_and_logged(tmp_path: Path, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("CXX", "no-such-compiler")
    outcomes: list[object] = []
    Inductor(selector(), order(tmp_path / "net"), nn.Identity(), example).compile_in_background(outcomes.append)
    assert outcomes == []
    assert "inductor is skipped: there is no C++ compiler no-such-compiler" in caplog.text


def test_a_damaged_library_is_skipped_and_logged(tmp_path: Path, caplog) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / inductor.LIBRARY).write_bytes(b"nothing to run")
    chooser = selector()
    compiled = Inductor(chooser, order(folder), nn.Identity(), example)
    assert compiled.cached
    for _ in compiled.consider():
        pass
    assert chooser.choice.name == "eager"
    assert "inductor is skipped" in caplog.text
    assert f"delete {folder} to compile it again" in caplog.text


def test_code_is_not_loaded_from_a_folder_that_others_can_write_to(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = inductor.cache_folder()
    assert folder == tmp_path / "smartbatch"
    assert folder.stat().st_mode & 0o777 == 0o700
    os.chmod(folder, 0o770)  # noqa: PTH101
    with pytest.raises(OSError, match="others can write to it"):
        inductor.cache_folder()


def test_the_cache_key_covers_all_that_compiled_code_depends_on() -> None:
    def network(value: float, size: int = 2) -> nn.Module:
        linear = nn.Linear(size, 1)
        nn.init.constant_(linear.weight, value)
        nn.init.zeros_(linear.bias)
        return linear

    def key(network: nn.Module, dtype: str = "float32", width: int = 2, varying: trees.Dimensions = frozenset()) -> str:
        return inductor.key(network, trees.form(torch.ones(1, width), varying), dtype, CPU)

    threads = torch.get_num_threads()
    one = key(network(1.0))
    assert one == key(network(1.0))
    others = {
        key(network(2.0)),
        key(network(1.0, size=3)),
        key(network(1.0), "bfloat16"),
        key(network(1.0), width=3),
        key(network(1.0), varying={(0, 1)}),
    }
    torch.set_num_threads(threads + 1)
    try:
        others.add(key(network(1.0)))
    finally:
        torch.set_num_threads(threads)
    assert len(others - {one}) == 6


THEIRS = """
import torch
from smartbatch import InputSpec

class Theirs(torch.nn.Module):
    input = {"image": InputSpec(("tensor",), "float32", (3, 16, 16)), "scale": InputSpec(("tensor",), "float32", (1,))}
    def __init__(self):
        super().__init__()
        %s
        self.convolution = torch.nn.Conv2d(3, 4, 3)
    def forward(self, scale, image):
        features = self.convolution(image).mean((2, 3))
        return {"features": features, "scaled": features * scale}
"""


def test_the_cache_key_covers_the_code_of_a_users_module(tmp_path: Path) -> None:
    keys = []
    for name, mean in (("one", "mean((2, 3))"), ("same", "mean((2, 3))"), ("two", "sum((2, 3))")):
        file = tmp_path / f"{name}_module.py"
        file.write_text((THEIRS % "torch.manual_seed(0)").replace("mean((2, 3))", mean))
        keys.append(loaded(f"{file}:Theirs").key())
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.extended
@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("g++"), reason="Inductor takes a C++ compiler, and there is no g++")
def test_a_users_module_of_several_inputs_and_outputs_compiles(tmp_path: Path) -> None:
    file = tmp_path / "theirs_to_compile.py"
    file.write_text(THEIRS % "torch.manual_seed(0)")
    network = loaded(f"{file}:Theirs")
    folder = tmp_path / network.key()
    inductor.run_compiler(order(folder, f"{file}:Theirs"))
    with torch.inference_mode():
        compiled = inductor.load(folder, CPU, network.eager, network.example(1))
        for rows in (1, 5):
            expected, outputs = network.eager(network.example(rows)), compiled(network.example(rows))
            assert outputs.keys() == expected.keys() == {"features", "scaled"}
            assert all(torch.allclose(outputs[name], expected[name], atol=1e-5) for name in expected)


TEXTS = """
import torch
from smartbatch import InputSpec

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.places = torch.nn.Embedding(50, 16), torch.nn.Embedding(40, 16)
        self.layer = torch.nn.Linear(16, 16)
    def forward(self, ids, mask):
        values = self.layer(self.tokens(ids) + self.places.weight[: ids.shape[1]])
        return (values * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)

class Texts:
    input = InputSpec(("tensor",), "int64", (-1,))
    def load(self): self.network = Network()
    def example(self): return torch.arange(12)
    def collate(self, rows):
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
        return ids, mask
    def forward(self, batch): return self.network(ids=batch[0], mask=batch[1])
"""


@pytest.mark.extended
@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("g++"), reason="Inductor takes a C++ compiler, and there is no g++")
def test_a_network_of_texts_compiles_for_every_length_that_it_can_do(tmp_path: Path) -> None:
    file = tmp_path / "texts_to_compile.py"
    file.write_text(TEXTS)
    path = f"{file}:Texts"
    network, model = loaded(path), resolve(path)
    assert network.varying == {(0, 1), (1, 1)}
    folder = tmp_path / network.key()
    inductor.run_compiler(order(folder, path))
    with torch.inference_mode():
        compiled = inductor.load(folder, CPU, network.eager, network.example(1))
        for lengths in ([12], [2], [5, 3], [40, 7, 1], [30] * 9):
            ids, mask = model.collate([torch.arange(length) for length in lengths])
            batch = (), {"ids": ids, "mask": mask}
            assert torch.allclose(compiled(batch), network.eager(batch), atol=1e-5)
        ids, mask = model.collate([torch.zeros(41, dtype=torch.long)])
        with pytest.raises(RuntimeError, match="size of tensor a"):  # eager's error, and no result of other memory
            compiled(((), {"ids": ids, "mask": mask}))


def test_weights_that_differ_in_the_compiling_process_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "theirs_at_random.py"
    file.write_text(THEIRS % "torch.seed()")
    folder = tmp_path / loaded(f"{file}:Theirs").key()
    with pytest.raises(RuntimeError, match="another network in the compiling process: are its weights random"):
        inductor.run_compiler(order(folder, f"{file}:Theirs"))
