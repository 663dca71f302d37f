"""Networks compiled by Inductor: made by a process of its own, kept, and never trusted unchecked."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from smartbatch.worker.models import LoadContext, resolve
from smartbatch.worker.models.classifier import Classifier
from smartbatch.worker.optimization import inductor
from smartbatch.worker.optimization.inductor import Inductor, Order
from smartbatch.worker.optimization.variants import VariantSelector

NAME = "squeezenet1_1"  # the smallest
CPU = torch.device("cpu")


def order(folder: Path, model_path: str = NAME) -> Order:
    return Order(model_path, "cpu", "float32", "random", 1, str(folder))


def optimiser() -> VariantSelector:
    return VariantSelector(nn.Identity(), lambda rows: torch.ones(rows, 3), 2)


@pytest.mark.extended
@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("g++"), reason="Inductor takes a C++ compiler, and there is no g++")
def test_what_is_compiled_answers_as_eager_for_any_number_of_rows(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    inductor.run_compiler(order(folder))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net", "net.lock"]
    model = resolve(NAME)
    assert isinstance(model, Classifier)
    network = model.eager(LoadContext("cpu", weights="random", torch_threads=1))
    compiled = inductor.load(folder, CPU)
    with torch.inference_mode():
        for rows in (1, 2, 5):
            expected = network(model.noise(rows))
            assert (compiled(model.noise(rows)) - expected).abs().max() / expected.abs().max() < 1e-4
    made_at = (folder / inductor.LIBRARY).stat().st_mtime_ns
    inductor.run_compiler(order(folder))
    assert (folder / inductor.LIBRARY).stat().st_mtime_ns == made_at  # another worker asked for the same


def test_a_compiling_process_ends_with_its_worker_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="compiling ended with -9"):
        inductor.run_compiler(order(tmp_path / "net"), limit_s=0.0)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_compiling_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"compiling ended with 1: .*there is no model 'resnet1818'"):
        inductor.run_compiler(order(tmp_path / "net", "resnet1818"))


def test_without_a_compiler_inductor_is_left_out_and_said(tmp_path: Path, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("CXX", "no-such-compiler")
    asked: list[object] = []
    Inductor(optimiser(), order(tmp_path / "net"), CPU).compile_beside(asked.append)
    assert asked == []
    assert "inductor is left out: there is no C++ compiler no-such-compiler" in caplog.text


def test_a_damaged_library_is_left_out_and_said(tmp_path: Path, caplog) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / inductor.LIBRARY).write_bytes(b"nothing to run")
    chooser = optimiser()
    compiled = Inductor(chooser, order(folder), CPU)
    assert compiled.cached
    for _ in compiled.consider():
        pass
    assert chooser.choice.name == "eager"
    assert "inductor is left out" in caplog.text
    assert f"delete {folder} to have it compiled again" in caplog.text


def test_code_is_not_taken_from_a_folder_where_others_may_write(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = inductor.cache_folder()
    assert folder == tmp_path / "smartbatch"
    assert folder.stat().st_mode & 0o777 == 0o700
    os.chmod(folder, 0o770)  # noqa: PTH101
    with pytest.raises(OSError, match="others may write there"):
        inductor.cache_folder()


def test_the_key_names_all_that_compiled_code_depends_on() -> None:
    def network(value: float, size: int = 2) -> nn.Module:
        linear = nn.Linear(size, 1)
        nn.init.constant_(linear.weight, value)
        nn.init.zeros_(linear.bias)
        return linear

    threads = torch.get_num_threads()
    one = inductor.key(network(1.0), "float32", CPU)
    assert one == inductor.key(network(1.0), "float32", CPU)
    others = {
        inductor.key(network(2.0), "float32", CPU),
        inductor.key(network(1.0, size=3), "float32", CPU),
        inductor.key(network(1.0), "bfloat16", CPU),
    }
    torch.set_num_threads(threads + 1)
    try:
        others.add(inductor.key(network(1.0), "float32", CPU))
    finally:
        torch.set_num_threads(threads)
    assert len(others - {one}) == 4
