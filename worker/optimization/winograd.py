"""3x3 convolutions on CPUs by Winograd's F(4x4, 3x3), which needs a quarter of the multiplications.

torch convolves with oneDNN, whose direct convolutions are near the processor's peak: only fewer multiplications are
faster. The kernel (winograd.cpp) is independent of the network; it compiles in a second or two, once per machine, and
is cached. Source: Lavin and Gray, https://arxiv.org/abs/1509.09308.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TypeGuard

import torch
from torch import nn

from smartbatch.worker.optimization import trees
from smartbatch.worker.optimization.folding import fold_batch_norms, weights_channels_last
from smartbatch.worker.optimization.inductor import cache_folder, compiler, cpu_flags, has_compiler
from smartbatch.worker.optimization.trees import Tree
from smartbatch.worker.optimization.variants import Network, seconds

log = logging.getLogger(__name__)

NAME = "winograd"
SOURCE = Path(__file__).with_suffix(".cpp")
# With OpenMP: the calls resolve to the runtime that torch has loaded, and so use its threads.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared")
LIMIT_S = 60.0
POINTS = 36
# Larger batches run in pieces: for 32 rows of 224x224 the first layer's output is 100 MB, which malloc maps anew each
# time.
PIECE_ROWS = 8

# Transforms three weights in a line to the six points 0, 1, -1, 2, -2 and infinity (the matrix G of F(4, 3)).
TO_POINTS = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]


def library() -> Path:
    """Return the path of the kernel for this machine, compiled or not. Raises OSError as cache_folder() does."""
    digest = hashlib.sha256(SOURCE.read_bytes())
    for part in (compiler(), *FLAGS, sys.platform, platform.machine(), cpu_flags()):
        digest.update(f"{part}\n".encode())
    return cache_folder() / f"winograd-{digest.hexdigest()[:32]}.so"


def possible(network: nn.Module) -> bool:
    """Return whether the network has convolutions for the kernel and the kernel exists or can be compiled."""
    if not any(map(is_supported, network.modules())):
        return False
    try:
        return library().is_file() or has_compiler(NAME)
    except OSError as error:
        log.warning("OPTIMIZE: %s is skipped: %s", NAME, error)
        return False


def compile_kernel(to: Path) -> None:
    """Compile the kernel atomically. Raises OSError, RuntimeError or subprocess.TimeoutExpired."""
    with tempfile.TemporaryDirectory(prefix="compiling-", dir=to.parent) as work:
        result = Path(work) / to.name
        command = [compiler(), *FLAGS, "-o", str(result), str(SOURCE)]
        environment = {**os.environ, "TMPDIR": work}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        if ended.returncode:
            lines = ended.stderr.strip().splitlines() or ["no output"]
            raise RuntimeError(f"the compiler exited with {ended.returncode}: {lines[-1][:300]}")
        result.replace(to)


class Kernel:
    """The compiled kernel and its scratch memory, which all convolutions of a network share.

    Used by the device thread only.
    """

    def __init__(self, path: Path) -> None:
        calls = ctypes.CDLL(str(path))
        self.width: int = calls.winograd_width()
        self.panel: int = calls.winograd_panel()
        size, pointer = ctypes.c_ssize_t, ctypes.c_void_p
        self._scratch_floats = calls.winograd_scratch
        self._scratch_floats.argtypes, self._scratch_floats.restype = [size] * 3, size
        self._convolve = calls.winograd_convolve
        self._convolve.argtypes, self._convolve.restype = [size] * 6 + [pointer] * 5, None
        self._scratch = torch.empty(0)

    def supports(self, channels: int, outputs: int) -> bool:
        return channels % self.width == 0 and outputs % self.panel == 0

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Transform weights from (outputs, channels, 3, 3) to (points, outputs / panel, channels, panel)."""
        outputs, channels = weight.shape[:2]
        to_points = torch.tensor(TO_POINTS, dtype=torch.float64)
        flat = weight.detach().double().permute(2, 3, 0, 1).reshape(9, -1)  # (9, outputs * channels)
        points = torch.kron(to_points, to_points) @ flat  # (36, outputs * channels)
        panels = points.float().view(POINTS, outputs // self.panel, self.panel, channels)
        return panels.transpose(2, 3).contiguous()  # (36, outputs / panel, channels, panel)

    def convolve(self, batch: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Convolve (rows, channels, H, W) float32 to (rows, outputs, H, W), both in channels_last."""
        batch = batch.contiguous(memory_format=torch.channels_last)
        rows, channels, height, width = batch.shape
        outputs = len(bias)
        if batch.dtype != torch.float32 or packed.shape != (POINTS, outputs // self.panel, channels, self.panel):
            raise ValueError(f"expected float32 of {packed.shape[2]} channels, got {batch.dtype} {list(batch.shape)}")
        threads = torch.get_num_threads()
        scratch = self._scratch_floats(channels, outputs, threads)
        if self._scratch.numel() < scratch:
            self._scratch = torch.empty(scratch)
        out = torch.empty((rows, outputs, height, width), memory_format=torch.channels_last)
        tensors = (tensor.data_ptr() for tensor in (batch, packed, bias, out, self._scratch))
        self._convolve(rows, height, width, channels, outputs, threads, *tensors)
        return out


class WinogradConv2d(nn.Module):
    """Replaces a convolution that is_supported()."""

    def __init__(self, convolution: nn.Conv2d, kernel: Kernel) -> None:
        super().__init__()
        bias = convolution.bias
        self._kernel = kernel
        self._packed = kernel.pack(convolution.weight)
        self._bias = torch.zeros(convolution.out_channels) if bias is None else bias.detach().contiguous()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self._kernel.convolve(batch, self._packed, self._bias)


def is_supported(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether the kernel can replace the module, except for its number of channels (Kernel.supports)."""
    return (
        isinstance(module, nn.Conv2d)
        and type(module).forward is nn.Conv2d.forward
        and type(module)._conv_forward is nn.Conv2d._conv_forward
        and module.kernel_size == (3, 3)
        and module.stride == (1, 1)
        and module.padding in ((1, 1), "same")
        and module.padding_mode == "zeros"
        and module.dilation == (1, 1)
        and module.groups == 1
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
    )


def winograd(network: nn.Module, batch: Tree) -> Network:
    """Return a copy in channels_last, with batch norms folded and convolutions replaced where that is faster.

    `batch` is the one to time. Raises ValueError if no convolution gains, and as library() and compile_kernel() do.
    """
    path = library()
    if not path.is_file():
        compile_kernel(path)
    copied = weights_channels_last(fold_batch_norms(network, trees.split(batch, 1)[0]))
    faster = _faster(copied, Kernel(path), trees.channels_last(batch))
    if not faster:
        raise ValueError("no convolution gains from it")
    for name, module in list(copied.named_modules(remove_duplicate=False)):
        if module in faster:
            copied.set_submodule(name, faster[module])
    return lambda batch: _in_pieces(copied, trees.channels_last(batch))


def _in_pieces(network: nn.Module, batch: Tree) -> Tree:
    if trees.rows_of(batch) <= PIECE_ROWS:
        return network(batch)
    return trees.concatenate([network(piece) for piece in trees.split(batch, PIECE_ROWS)])


def _faster(network: nn.Module, kernel: Kernel, batch: Tree) -> dict[nn.Module, WinogradConv2d]:
    """Run the batch. Returns the convolutions that were slower than their replacements, with these."""
    replacements: dict[nn.Module, WinogradConv2d] = {}
    gains_s: dict[nn.Module, float] = {}

    def after_convolution(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        assert isinstance(module, nn.Conv2d)
        replacement = replacements.setdefault(module, WinogradConv2d(module, kernel))
        replacement(inputs[0])  # warm-up, as the module has just had
        direct_s = min(seconds(module.forward, inputs[0]) for _ in range(2))
        winograd_s = min(seconds(replacement.forward, inputs[0]) for _ in range(2))
        gains_s[module] = gains_s.get(module, 0.0) + direct_s - winograd_s

    hooks = [
        module.register_forward_hook(after_convolution)
        for module in network.modules()
        if is_supported(module) and kernel.supports(module.in_channels, module.out_channels)
    ]
    try:
        network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {module: replacements[module] for module, gain_s in gains_s.items() if gain_s > 0}
