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
from smartbatch.worker.models.classifier import Classifier
from smartbatch.worker.optimization import inductor
from smartbatch.worker.optimization.inductor import CompileJob, Inductor
from smartbatch.worker.optimization.variants import VariantSelector

NAME = "squeezenet1_1"  # the smallest
CPU = torch.device("cpu")


def order(folder: Path, model_path: str = NAME) -> CompileJob:
    return CompileJob(model_path, "cpu", "float32", "random", 1, str(folder))


def selector() -> VariantSelector:
    return VariantSelector(nn.Identity(), lambda rows: torch.ones(rows, 3), 2)


@pytest.mark.extended
@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("g++"), reason="Inductor takes a C++ compiler, and there is no g++")
def test_a_compiled_network_matches_eager_for_any_number_of_rows(tmp_path: Path) -> None:
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
    assert (folder / inductor.LIBRARY).stat().st_mtime_ns == made_at  # another worker requested the same


def test_the_compiling_process_ends_with_its_worker_and_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the compiler exited with -9"):
        inductor.run_compiler(order(tmp_path / "net"), limit_s=0.0)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_failed_compiling_process_reports_the_reason(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"the compiler exited with 1: .*unknown model 'resnet1818'"):
        inductor.run_compiler(order(tmp_path / "net", "resnet1818"))


def test_without_a_compiler_inductor_is_skipped_and_logged(tmp_path: Path, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("CXX", "no-such-compiler")
    outcomes: list[object] = []
    Inductor(selector(), order(tmp_path / "net"), CPU).compile_in_background(outcomes.append)
    assert outcomes == []
    assert "inductor is skipped: there is no C++ compiler no-such-compiler" in caplog.text


def test_a_damaged_library_is_skipped_and_logged(tmp_path: Path, caplog) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / inductor.LIBRARY).write_bytes(b"nothing to run")
    chooser = selector()
    compiled = Inductor(chooser, order(folder), CPU)
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
