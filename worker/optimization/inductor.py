"""Networks compiled ahead of time by Inductor: one shared library per network, cached for later starts.

Compiling takes minutes and a gigabyte of memory, so a separate process does it (models/compile_process.py) at the
lowest priority while the worker serves. The library works for any number of rows and, where rows differ in size, for
any length: no request waits for a compiler.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import inspect
import logging
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Hashable
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from smartbatch.worker.core.model import LoadContext
from smartbatch.worker.optimization import trees
from smartbatch.worker.optimization.trees import Tree
from smartbatch.worker.optimization.variants import Network, VariantSelector

log = logging.getLogger(__name__)

NAME = "inductor"
DEVICES = ("cpu", "cuda")
LIMIT_S = 1800.0  # efficientnet_lite0 took 323 s on a fifth of a core
LIBRARY = "network.so"
COMPILED_BY = Path(__file__).parents[1] / "models" / "compile_process.py"
LENGTHS = "lengths.json"  # next to it: the greatest length of each varying dimension that has one
WORTHWHILE_S = 0.001  # a network whose forward of one row is faster isn't compiled


class CompileJob(msgspec.Struct):
    """The input of the compiling process: the network to build, and the folder for the library."""

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
    """Return the cache folder, next to torch's downloaded weights (TORCH_HOME). Raises OSError if others can write."""
    folder = Path(torch.hub.get_dir()).parent / "smartbatch"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise OSError(f"{folder} belongs to another user or others can write to it; its contents would be executed")
    return folder


def key(network: nn.Module, form: Hashable, dtype: str, device: torch.device) -> str:
    """Return a hash of everything that compiled code depends on: CPU or GPU, number of threads, network, and the form
    of its batches."""
    digest = hashlib.sha256()
    machine = f"{platform.machine()} {cpu_flags()}"
    if device.type == "cuda":
        machine += f" {torch.cuda.get_device_name(device)} {torch.cuda.get_device_capability(device)}"
    versions = torch.__version__, importlib.metadata.version("torchvision")
    for part in (*versions, machine, torch.get_num_threads(), dtype, network, form):
        digest.update(f"{part}\n".encode())
    for file in (COMPILED_BY, *_sources(network)):
        digest.update(file.read_bytes())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _sources(network: nn.Module) -> list[Path]:
    """Return the files that define the classes of a network's modules, except torch's own."""
    found = set()
    for kind in {type(module) for module in network.modules()}:
        with contextlib.suppress(TypeError, OSError):  # it was not read from a file
            found.add(Path(inspect.getfile(kind)).resolve())
    return sorted(file for file in found if Path(torch.__file__).parent not in file.parents and file.is_file())


def cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


class Length(msgspec.Struct):
    """The greatest length of a dimension that compiled code can do; it does not check that itself."""

    tensor: int
    dimension: int
    greatest: int


def load(folder: Path, device: torch.device, eager: Network, example: Tree) -> Network:
    """Load a compiled network. Torch's loader may raise anything.

    `eager` shows with the example what the outputs are, and runs batches longer than the code was compiled for.
    """
    outputs = eager(example)
    library = str(folder / LIBRARY)
    core: Any = torch._C
    runners = core._aoti  # the package loader unpacks to /tmp, which may be mounted noexec, and never cleans up
    if device.type == "cuda":
        runner = runners.AOTIModelContainerRunnerCuda(library, 1, str(device), str(folder))
    else:
        runner = runners.AOTIModelContainerRunnerCpu(library, 1)
    lengths = msgspec.json.decode((folder / LENGTHS).read_bytes(), type=list[Length])

    def run(batch: Tree) -> Tree:
        tensors = trees.tensors(trees.channels_last(batch))
        if any(tensors[length.tensor].shape[length.dimension] > length.greatest for length in lengths):
            return eager(batch)
        return trees.like(outputs, runner.run(tensors))

    return run


class Inductor:
    """Compiles one network, or loads it from the cache, and adds it to the variants of the selector.

    Created in the device thread while loading. A thread of its own waits for the compiling process.
    """

    def __init__(
        self, selector: VariantSelector, job: CompileJob, eager: nn.Module, example: Callable[[int], Tree]
    ) -> None:
        self._selector = selector
        self._job = job
        self._eager = eager
        self._example = example
        self._folder = Path(job.folder)

    @property
    def cached(self) -> bool:
        return (self._folder / LIBRARY).is_file()

    def consider(self) -> Generator[None, None, None]:
        """Check and time the cached library. Keep it even if it fails: a new one might fail at each start too."""
        failed = yield from self._selector.consider(NAME, self._load)
        if failed:
            log.warning("OPTIMIZE: delete %s to compile it again at the next start", self._folder)

    def _load(self) -> Network:
        return load(self._folder, torch.device(self._job.device), self._eager, self._example(1))

    def compile_in_background(self, in_device_thread: Callable[[Callable[[], None]], None]) -> None:
        """Compile once the worker serves, then check and time the result between batches."""
        if not has_compiler(NAME):
            return
        threading.Thread(target=self._compile, args=(in_device_thread,), name="compile", daemon=True).start()

    def _compile(self, in_device_thread: Callable[[Callable[[], None]], None]) -> None:
        _run_in(in_device_thread, lambda: None)  # waits for loading and warm-up
        log.info("OPTIMIZE: compiling into %s in the background, at the lowest priority", self._folder)
        try:
            run_compiler(self._job)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            log.warning("OPTIMIZE: %s is skipped: %s", NAME, error)
            return
        steps = self.consider()
        while _run_in(in_device_thread, lambda: next(steps, StopIteration)) is not StopIteration:
            pass  # batches run between the steps


def _run_in(in_device_thread: Callable[[Callable[[], None]], None], function: Callable[[], Any]) -> Any:
    """Run a function in the device thread and return its result; StopIteration if it raises."""
    done = threading.Event()
    results: list[Any] = [StopIteration]

    def call() -> None:
        try:
            results[0] = function()
        except Exception:
            log.exception("OPTIMIZE: %s failed", NAME)
        finally:
            done.set()

    in_device_thread(call)
    done.wait()
    return results[0]


def compiler() -> str:
    return os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")


def has_compiler(variant: str) -> bool:
    """Return whether there is a C++ compiler. If not, log that the variant is skipped."""
    if shutil.which(compiler()):
        return True
    log.info("OPTIMIZE: %s is skipped: there is no C++ compiler %s (docs/performance.md)", variant, compiler())
    return False


def run_compiler(job: CompileJob, limit_s: float = LIMIT_S) -> None:
    """Run the compiling process to its end. Raises RuntimeError with its last line if it fails.

    Its standard input stays open as long as this process lives; when it closes, the compiling process ends.
    """
    command = [sys.executable, "-m", "smartbatch.worker.models.compile_process", msgspec.json.encode(job).decode()]
    pipe = subprocess.PIPE
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        assert process.stdin and process.stderr
        timer = threading.Timer(limit_s, process.stdin.close)
        timer.start()
        lines = process.stderr.read().decode(errors="replace").strip().splitlines()
        code = process.wait()
        timer.cancel()
    if code:
        raise RuntimeError(f"the compiler exited with {code}: {lines[-1][:300] if lines else 'no output'}")
