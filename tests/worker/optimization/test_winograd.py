"""Winograd convolutions: correct for any size that they support, and skipped if anything goes wrong."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smartbatch.worker.optimization import winograd
from smartbatch.worker.optimization.inductor import compiler
from smartbatch.worker.optimization.variants import VariantSelector
from smartbatch.worker.optimization.winograd import Kernel, WinogradConv2d

needs_compiler = pytest.mark.skipif(not shutil.which(compiler()), reason="the kernel takes a C++ compiler")


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("kernel") / "kernel.so"
    winograd.compile_kernel(path)
    assert [file.name for file in path.parent.iterdir()] == ["kernel.so"]
    return path


@pytest.fixture
def kept(monkeypatch, path: Path) -> Path:
    """Use the library compiled by the `path` fixture."""
    monkeypatch.setattr(winograd, "library", lambda: path)
    return path


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@needs_compiler
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("rows", "height", "width", "channels", "outputs"),
    [
        *((2, side, 17 - side, 32, 32) for side in range(1, 17)),
        (1, 4, 4, 32, 64),
        (8, 7, 7, 64, 32),
        (3, 5, 9, 32, 96),
        (2, 14, 13, 96, 32),
        (13, 3, 2, 32, 32),
        (1, 57, 58, 64, 64),
        (0, 8, 8, 32, 32),
    ],
)
@torch.inference_mode()
def test_it_matches_the_direct_convolution(
    path: Path, generator, rows: int, height: int, width: int, channels: int, outputs: int, bias: bool
) -> None:
    convolution = nn.Conv2d(channels, outputs, 3, padding=1, bias=bias)
    assert winograd.is_supported(convolution)
    other = WinogradConv2d(convolution, Kernel(path))
    batch = torch.randn((rows, channels, height, width), generator=generator)
    exact = None if convolution.bias is None else convolution.bias.double()
    expected = F.conv2d(batch.double(), convolution.weight.double(), exact, padding=1)
    for same in (batch, batch.contiguous(memory_format=torch.channels_last), batch.flip(3).contiguous().flip(3)):
        came = other(same)
        assert came.shape == expected.shape and came.dtype == torch.float32
        assert came.is_contiguous(memory_format=torch.channels_last)
        if rows:
            assert (came - expected).abs().max() / expected.abs().max() < 1e-4


@needs_compiler
@torch.inference_mode()
def test_outputs_do_not_depend_on_the_number_of_threads(path: Path, generator) -> None:
    other = WinogradConv2d(nn.Conv2d(32, 32, 3, padding=1), Kernel(path))
    batch = torch.randn((2, 32, 9, 9), generator=generator)  # 18 tiles
    threads, outputs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 20):
            torch.set_num_threads(count)
            outputs.append(other(batch))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(output, outputs[0]) for output in outputs)


@needs_compiler
@torch.inference_mode()
def test_outputs_of_a_row_do_not_depend_on_the_batch(path: Path, generator) -> None:
    other = WinogradConv2d(nn.Conv2d(32, 32, 3, padding=1), Kernel(path))
    batch = torch.randn((5, 32, 6, 7), generator=generator)  # 20 tiles
    sole_worker = other(batch[2:3])
    batch[1], batch[3] = float("inf"), float("nan")
    assert torch.equal(other(batch)[2:3], sole_worker)


@needs_compiler
def test_a_batch_of_another_shape_is_rejected(path: Path) -> None:
    other = WinogradConv2d(nn.Conv2d(64, 32, 3, padding=1), Kernel(path))
    for batch in (torch.ones(1, 32, 8, 8), torch.ones(1, 64, 8, 8, dtype=torch.float64)):
        with pytest.raises(ValueError, match="expected float32 of 64 channels, got"):
            other(batch)


class OwnForward(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(32, 32),
        nn.Conv2d(32, 32, 1),
        nn.Conv2d(32, 32, (3, 1), padding=1),
        nn.Conv2d(32, 32, 3),
        nn.Conv2d(32, 32, 3, padding=1, stride=2),
        nn.Conv2d(32, 32, 3, padding=1, dilation=2),
        nn.Conv2d(32, 32, 3, padding=1, groups=2),
        nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(32, 32, 3, padding=1, dtype=torch.bfloat16),
        nn.ConvTranspose2d(32, 32, 3, padding=1),
        OwnForward(32, 32, 3, padding=1),
    ],
)
def test_other_convolutions_are_not_supported(module: nn.Module) -> None:
    assert not winograd.is_supported(module)
    assert not winograd.possible(module)


class Blocks(nn.Module):
    """Some convolutions for the kernel, and one that isn't: too few channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.first = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(64)
        self.second = nn.Conv2d(64, 64, 3, padding="same")

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(self.stem(batch))).relu()).mean((2, 3))


@pytest.fixture
def blocks() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = Blocks().eval()
    assert network.norm.running_var is not None
    nn.init.uniform_(network.norm.running_var, 0.5, 2.0)
    return network


def example(rows: int) -> torch.Tensor:
    return torch.randn((rows, 3, 30, 30), generator=torch.Generator().manual_seed(0))


def considered(blocks: nn.Module) -> VariantSelector:
    selector = VariantSelector(blocks, example, 2)
    for _ in selector.consider(winograd.NAME, lambda: winograd.winograd(blocks, example(2))):
        pass
    return selector


def faster_by_winograd(module, batch: torch.Tensor) -> float:
    return 1.0 if isinstance(module.__self__, WinogradConv2d) else 2.0


@needs_compiler
@torch.inference_mode()
def test_the_variant_matches_eager_for_any_batch_size(kept: Path, blocks: nn.Module, monkeypatch) -> None:
    monkeypatch.setattr(winograd, "seconds", faster_by_winograd)
    replaced: list[tuple[str, nn.Module]] = []
    monkeypatch.setattr(nn.Module, "set_submodule", record(nn.Module.set_submodule, replaced))
    variant = winograd.winograd(blocks, example(2))
    assert [name for name, module in replaced if isinstance(module, WinogradConv2d)] == ["first", "second"]
    for rows in (1, 2, 8, 9, 17):
        expected = blocks(example(rows))
        assert (variant(example(rows)) - expected).abs().max() / expected.abs().max() < 1e-4


def record(call, replaced: list[tuple[str, nn.Module]]):
    def recorded(self: nn.Module, name: str, module: nn.Module) -> None:
        replaced.append((name, module))
        call(self, name, module)

    return recorded


@needs_compiler
def test_it_is_considered_like_any_variant(kept: Path, blocks: nn.Module, monkeypatch) -> None:
    monkeypatch.setattr(winograd, "seconds", faster_by_winograd)
    monkeypatch.setattr(
        "smartbatch.worker.optimization.variants.seconds", lambda network, _: 2.0 if network is blocks else 1.0
    )
    choice = considered(blocks).choice
    assert (choice.name, choice.gain) == ("winograd", 2.0)
    assert 0 < choice.error < 1e-4


@needs_compiler
def test_it_is_skipped_and_logged_if_outputs_deviate(kept: Path, blocks: nn.Module, monkeypatch, caplog) -> None:
    monkeypatch.setattr(winograd, "seconds", faster_by_winograd)
    monkeypatch.setattr(winograd, "TO_POINTS", [[1.001 * value for value in row] for row in winograd.TO_POINTS])
    assert considered(blocks).choice.name == "eager"
    assert "winograd is skipped: its outputs deviate by" in caplog.text


@needs_compiler
def test_it_is_skipped_and_logged_if_no_convolution_gains(kept: Path, blocks: nn.Module, monkeypatch, caplog) -> None:
    monkeypatch.setattr(winograd, "seconds", lambda module, batch: 1.0)
    assert considered(blocks).choice.name == "eager"
    assert "winograd is skipped: no convolution gains from it" in caplog.text


def test_it_is_skipped_and_logged_if_compiling_fails(tmp_path: Path, blocks: nn.Module, monkeypatch, caplog) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    assert winograd.possible(blocks)
    assert considered(blocks).choice.name == "eager"
    assert "winograd is skipped: the compiler exited with 1: no output" in caplog.text
    assert list((tmp_path / "smartbatch").iterdir()) == []


def test_without_a_compiler_it_is_skipped_and_logged(tmp_path: Path, blocks: nn.Module, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not winograd.possible(blocks)
    assert "winograd is skipped: there is no C++ compiler no-such-compiler" in caplog.text
    winograd.library().touch()  # as if an earlier start had made it
    assert winograd.possible(blocks)


def test_code_is_not_loaded_from_a_folder_that_others_can_write_to(tmp_path: Path, blocks, monkeypatch, caplog) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "smartbatch").mkdir()
    (tmp_path / "smartbatch").chmod(0o770)
    assert not winograd.possible(blocks)
    assert "winograd is skipped" in caplog.text and "others can write to it" in caplog.text


def test_the_library_name_covers_all_that_the_kernel_depends_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    names = [winograd.library(), winograd.library()]
    monkeypatch.setattr(winograd, "FLAGS", (*winograd.FLAGS, "-g"))
    names.append(winograd.library())
    monkeypatch.setattr(winograd, "cpu_flags", lambda: "another processor")
    names.append(winograd.library())
    monkeypatch.setattr(winograd, "SOURCE", Path(__file__))
    names.append(winograd.library())
    assert names[0] == names[1] and len(set(names)) == 4
