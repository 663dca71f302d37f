"""The torch device: choose it, copy batches to it and outputs from it, free its memory."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from smartbatch.shared.errors import ModelLoadError
from smartbatch.worker.core.model import LoadContext

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def open_device(context: LoadContext) -> torch.device:
    """Return the device of DEVICE and set torch's threads. Raises ModelLoadError if it can't be used."""
    if context.torch_threads > 0:
        torch.set_num_threads(context.torch_threads)
    name = context.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", 0)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # per thread: streams and graphs are created on the current device
        torch.empty(1, device=device)
    # no such device, torch built without it, unknown type
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ModelLoadError(f"DEVICE={name} can't be used ({reason}); choose auto, cpu, cuda, cuda:N or mps") from None
    return device


def device_name(device: torch.device) -> str:
    """Return `cpu`, `mps` or `cuda:0 NVIDIA H100`."""
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return str(device)


def device_id(device: torch.device) -> str:
    """Return a name that is the same in all processes of this host, whatever devices each of them sees."""
    if device.type == "cuda":
        return f"cuda-{torch.cuda.get_device_properties(device).uuid}"
    if device.type == "cpu" and hasattr(os, "sched_getaffinity"):  # Linux
        return "cpu-" + hashlib.sha256(repr(sorted(os.sched_getaffinity(0))).encode()).hexdigest()[:16]
    return device.type


def stack_on(device: torch.device, rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack rows of one dtype and shape on the device."""
    if device.type != "cuda" or rows[0].is_cuda:
        return torch.stack(tuple(rows)).to(device)  # (rows, …)
    # torch's caching host allocator reuses a block of pinned memory only after its copy is done
    staging = torch.empty((len(rows), *rows[0].shape), dtype=rows[0].dtype, pin_memory=True)
    torch.stack(tuple(rows), out=staging)
    return _copy_to(device, staging)


def stack_arrays_on(device: torch.device, rows: Sequence[np.ndarray]) -> torch.Tensor:
    """Stack arrays of one dtype and shape on the device."""
    stacked = torch.from_numpy(np.stack(rows))  # (rows, …)
    return _copy_to(device, stacked.pin_memory()) if device.type == "cuda" else stacked.to(device)


def _copy_to(device: torch.device, staging: torch.Tensor) -> torch.Tensor:
    copy_stream, compute_stream = _stream(device, "in"), torch.cuda.current_stream(device)
    with torch.cuda.stream(copy_stream):  # overlaps with the running forward
        batch = staging.to(device, non_blocking=True)  # (rows, …)
    compute_stream.wait_stream(copy_stream)
    batch.record_stream(compute_stream)
    return batch


class AsyncHostCopy:
    """Outputs being copied to the host. `wait` waits for them and for nothing that was launched later."""

    def __init__(self, outputs: torch.Tensor) -> None:
        if outputs.dtype in (torch.float16, torch.bfloat16):
            outputs = outputs.float()  # as tensors.to_numpy
        copy_stream = _stream(outputs.device, "out")
        copy_stream.wait_stream(torch.cuda.current_stream(outputs.device))
        with torch.cuda.stream(copy_stream):
            self._host = torch.empty(outputs.shape, dtype=outputs.dtype, pin_memory=True)
            self._host.copy_(outputs, non_blocking=True)
            self._copied = torch.cuda.Event(blocking=True)  # else waiting would spin on a core
            self._copied.record(copy_stream)
        outputs.record_stream(copy_stream)

    def wait(self) -> np.ndarray:
        self._copied.synchronize()
        return self._host.numpy()


def copy_back(outputs: Any) -> Any:
    """Start copying outputs to the host, where a copy can be waited for later. Containers become plain ones."""
    if isinstance(outputs, torch.Tensor):
        return AsyncHostCopy(outputs) if outputs.is_cuda else outputs
    if isinstance(outputs, dict):
        return {name: copy_back(output) for name, output in outputs.items()}
    if isinstance(outputs, list | tuple):
        copies = [copy_back(output) for output in outputs]
        return copies if isinstance(outputs, list) else tuple(copies)
    return outputs


@functools.cache
def _stream(device: torch.device, direction: str) -> torch.cuda.Stream:
    """Return the device's stream for copies in one direction, besides the one that computes."""
    return torch.cuda.Stream(device)


def free_memory() -> None:
    """Return cached device memory."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def memory(name: str) -> dict[str, int]:
    """Return the memory of the device with this `device_name` in bytes: in tensors of this process, reserved by torch,
    and in total. Empty except for CUDA. Reads torch's own counters, so it never waits for the device."""
    device = name.partition(" ")[0]
    if not device.startswith("cuda"):
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "total": torch.cuda.get_device_properties(device).total_memory,
    }


def works(device: torch.device) -> bool:
    """Run a tiny computation. After some errors every call of this process fails."""
    try:
        return torch.ones(1, device=device).add_(1).item() == 2
    except torch.OutOfMemoryError:
        return True
    except RuntimeError:
        return False
