"""Networks compiled by Inductor with freezing, ahead of time: a shared library per network, kept for the next start.

Compiling takes minutes and a gigabyte of memory, so a process of its own does it (compile_process.py), at the lowest
priority, once the worker serves. What it made works for any number of rows: nothing is ever compiled in the hot path.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import msgspec
import torch
import torchvision
from torch import nn

from smartbatch.worker.core.model import LoadContext
from smartbatch.worker.optimization.variants import Network, VariantSelector

log = logging.getLogger(__name__)

NAME = "inductor"
DEVICES = ("cpu", "cuda")
LIMIT_S = 1800.0  # efficientnet_lite0 took 323 s on a core it had a fifth of
LIBRARY = "network.so"


class Order(msgspec.Struct):
    """What the compiling process is told: the network to build, and the folder to leave the library in."""

    model_path: str
    device: str
    dtype: str
    weights: str
    threads: int
    folder: str

    @property
    def context(self) -> LoadContext:
        return LoadContext(self.device, self.dtype, weights=self.weights, torch_threads=self.threads)


def cache_folder() -> Path:
    """Where torch keeps downloaded weights too: TORCH_HOME. Raises OSError if others could write code there."""
    folder = Path(torch.hub.get_dir()).parent / "smartbatch"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise OSError(f"{folder} belongs to others, or others may write there: what is in it is run")
    return folder


def key(network: nn.Module, dtype: str, device: torch.device) -> str:
    """Name everything that the compiled code depends on: it is made for one CPU, one count of threads, one network."""
    digest = hashlib.sha256()
    machine = f"{platform.machine()} {cpu_flags()}"
    if device.type == "cuda":
        machine += f" {torch.cuda.get_device_name(device)} {torch.cuda.get_device_capability(device)}"
    for part in (torch.__version__, torchvision.__version__, machine, torch.get_num_threads(), dtype, str(network)):
        digest.update(f"{part}\n".encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def load(folder: Path, device: torch.device) -> Network:
    """Load a compiled network. Raises whatever the loader does."""
    library = str(folder / LIBRARY)
    core: Any = torch._C
    runners = core._aoti  # the package loader unpacks to /tmp, which may forbid code, and leaves it there
    if device.type == "cuda":
        runner = runners.AOTIModelContainerRunnerCuda(library, 1, str(device), str(folder))
    else:
        runner = runners.AOTIModelContainerRunnerCpu(library, 1)
    return lambda batch: runner.run([batch.contiguous(memory_format=torch.channels_last)])[0]


class Inductor:
    """Brings the compiled form of one network to its optimiser, now if it is cached, else when it has been compiled.

    Made in the device thread while loading; what is compiled later is waited for by a thread of its own.
    """

    def __init__(self, optimiser: VariantSelector, order: Order, device: torch.device) -> None:
        self._optimiser = optimiser
        self._order = order
        self._device = device
        self._folder = Path(order.folder)

    @property
    def cached(self) -> bool:
        return (self._folder / LIBRARY).is_file()

    def consider(self) -> Generator[None, None, None]:
        """Check and time what is cached. What fails is kept: made again at each start it might fail each time."""
        refused = yield from self._optimiser.consider(NAME, lambda: load(self._folder, self._device), compiled=True)
        if refused:
            log.warning("OPTIMIZE: delete %s to have it compiled again at the next start", self._folder)

    def compile_beside(self, in_device_thread: Callable[[Callable[[], None]], None]) -> None:
        """Compile once the device thread gets to it, which is when the worker serves; then consider the result."""
        if not has_compiler(NAME):
            return
        threading.Thread(target=self._compile, args=(in_device_thread,), name="compile", daemon=True).start()

    def _compile(self, in_device_thread: Callable[[Callable[[], None]], None]) -> None:
        _run_there(in_device_thread, lambda: None)  # behind loading and warming up
        log.info("OPTIMIZE: compiling for %s beside serving, at the lowest priority", self._folder)
        try:
            run_compiler(self._order)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            log.warning("OPTIMIZE: %s is left out: %s", NAME, error)
            return
        steps = self.consider()
        while _run_there(in_device_thread, lambda: next(steps, StopIteration)) is not StopIteration:
            pass  # a batch may run between any two steps


def _run_there(in_device_thread: Callable[[Callable[[], None]], None], function: Callable[[], Any]) -> Any:
    done = threading.Event()
    answers: list[Any] = [StopIteration]

    def call() -> None:
        try:
            answers[0] = function()
        except Exception:
            log.exception("OPTIMIZE: %s failed", NAME)
        finally:
            done.set()

    in_device_thread(call)
    done.wait()
    return answers[0]


def compiler() -> str:
    return os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")


def has_compiler(variant: str) -> bool:
    """Whether there is one; if not, it is said that the form is left out."""
    if shutil.which(compiler()):
        return True
    log.info("OPTIMIZE: %s is left out: there is no C++ compiler %s (docs/performance.md)", variant, compiler())
    return False


def run_compiler(order: Order, limit_s: float = LIMIT_S) -> None:
    """Run the compiling process to its end. Raises RuntimeError with its last line if it fails.

    Its standard input stays open as long as this process lives: when that ends, however it does, it ends too.
    """
    command = [sys.executable, "-m", "smartbatch.worker.models.compile_process", msgspec.json.encode(order).decode()]
    pipe = subprocess.PIPE
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        assert process.stdin and process.stderr
        timer = threading.Timer(limit_s, process.stdin.close)
        timer.start()
        said = process.stderr.read().decode(errors="replace").strip().splitlines()
        code = process.wait()
        timer.cancel()
    if code:
        raise RuntimeError(f"compiling ended with {code}: {said[-1][:300] if said else 'it said nothing'}")
