"""The process that compiles a network, started by optimization/inductor.py with a CompileJob.

It compiles in a child, and deletes the files of a child that failed or whose worker has ended: standard input closes
then. A lock prevents two processes from compiling the same network. The library appears complete or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import signal
import sys
import tempfile
import zipfile
from collections.abc import Generator
from multiprocessing.connection import wait
from pathlib import Path

import msgspec

from smartbatch.worker.optimization.inductor import LENGTHS, LIBRARY, CompileJob, Length

EXAMPLE_ROWS = 4
MAX_ROWS = 65536
LOCK_POLL_S = 0.5
STANDARD_INPUT = 0  # closes when the worker ends or the time is up


def main() -> None:
    job = msgspec.json.decode(sys.argv[1], type=CompileJob)
    os.nice(19)
    folder = Path(job.folder)
    with _exclusive(folder):
        if not (folder / LIBRARY).exists():
            with tempfile.TemporaryDirectory(prefix="compiling-", dir=folder.parent) as work:
                _run_child(job, Path(work), folder)


def _run_child(job: CompileJob, work: Path, folder: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_compile, args=(job, work, folder))
    child.start()
    assert child.pid
    with contextlib.suppress(ProcessLookupError):  # both call setpgid, whichever is first
        os.setpgid(child.pid, child.pid)
    if child.sentinel not in wait([STANDARD_INPUT, child.sentinel]):
        os.killpg(child.pid, signal.SIGKILL)
    child.join()
    if child.exitcode:
        sys.exit(f"signal {-child.exitcode}" if child.exitcode < 0 else child.exitcode)


@contextlib.contextmanager
def _exclusive(folder: Path) -> Generator[None, None, None]:
    with folder.with_suffix(".lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if wait([STANDARD_INPUT], LOCK_POLL_S):
                    sys.exit("another process was compiling the same network")
        yield


def _compile(job: CompileJob, work: Path, folder: Path) -> None:
    os.setpgid(0, 0)  # a process group of its own, which includes the compilers that it starts
    # Next to the result, not in /tmp: Inductor loads what it compiles there, and /tmp may be mounted noexec.
    os.environ.update(TORCHINDUCTOR_CACHE_DIR=str(work / "inductor"), TMPDIR=str(work))
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    tempfile.tempdir = str(work)
    from smartbatch.worker.models import resolve
    from smartbatch.worker.models.torch_model import TorchModel

    model = resolve(job.model_path)
    model.load(job.context)
    network = model.network if isinstance(model, TorchModel) else None
    if network is None:
        raise RuntimeError(f"{job.model_path} has no network here")
    if network.key() != folder.name:
        raise RuntimeError(
            "it is another network in the compiling process: are its weights random, without a seed, or from a file "
            "that has changed?"
        )
    package, lengths = compile_network(network.eager, network.example(EXAMPLE_ROWS), network.varying, work)
    unpack(package, work / "result")
    (work / "result" / LENGTHS).write_bytes(msgspec.json.encode(lengths))
    (work / "result").replace(folder)


def compile_network(network, example, varying, work: Path) -> tuple[Path, list[Length]]:
    """Compile for any number of rows and for any length of the `varying` dimensions. Returns the package's path."""
    import torch

    from smartbatch.worker.optimization import trees

    network = network.to(memory_format=torch.channels_last)
    example = trees.channels_last(example)
    rows, any_length = torch.export.Dim("rows", min=1, max=MAX_ROWS), torch.export.Dim.DYNAMIC
    dimensions = [{0: rows} for _ in trees.tensors(example)]
    for number, dimension in varying:
        dimensions[number][dimension] = any_length
    remaining = iter(dimensions)
    shapes = trees.map_leaves(lambda leaf: next(remaining) if isinstance(leaf, torch.Tensor) else None, example)
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=(shapes,))
        # Freezing packs weights for one shape: with lengths that vary, large batches were a third slower.
        path = torch._inductor.aoti_compile_and_package(
            program, package_path=str(work / "network.pt2"), inductor_configs={"freezing": not varying}
        )
    return Path(path), _lengths(program, varying)


def _lengths(program, varying) -> list[Length]:
    """Return the greatest lengths that the exported program allows; without a limit, none."""
    import torch

    inputs = [
        node.meta["val"]
        for node in program.graph.nodes
        if node.name in program.graph_signature.user_inputs and isinstance(node.meta.get("val"), torch.Tensor)
    ]
    found = []
    for number, dimension in sorted(varying):
        symbol = inputs[number].shape[dimension].node.expr
        greatest = program.range_constraints[symbol].upper
        if greatest.is_Integer:
            found.append(Length(number, dimension, int(greatest)))
    return found


def unpack(package: Path, folder: Path) -> None:
    """Extract the library, and for a GPU its kernels, from the package."""
    folder.mkdir()
    with zipfile.ZipFile(package) as archive:
        for name in archive.namelist():
            file = Path(name).name
            if file.endswith((".so", ".cubin", ".hsaco", ".spv")):
                (folder / (LIBRARY if file.endswith(".so") else file)).write_bytes(archive.read(name))


if __name__ == "__main__":
    main()
