"""Where torch computes: choosing the device, moving batches there, and giving its memory back."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

from smartbatch.shared.errors import ModelLoadError
from smartbatch.worker.core.model import LoadContext

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def open_device(context: LoadContext) -> torch.device:
    """Return the device asked for, and set torch's threads. Raises ModelLoadError if it isn't there."""
    if context.torch_threads > 0:
        torch.set_num_threads(context.torch_threads)
    asked = context.device
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(asked)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", 0)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread: streams and graphs are made on the current device
        torch.empty(1, device=device)
    except (
        RuntimeError,
        AssertionError,
        NotImplementedError,
    ) as error:  # none there, torch built without, no such kind
        reason = str(error).partition("\n")[0][:200]
        raise ModelLoadError(
            f"DEVICE={asked} can't be used ({reason}); choose auto, cpu, cuda, cuda:N or mps"
        ) from None
    return device


def device_name(device: torch.device) -> str:
    """Return `cpu`, `mps` or `cuda:0 NVIDIA H100`."""
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return str(device)


def stack_on(device: torch.device, rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack rows of one dtype and shape on the device: (rows, …)."""
    if device.type != "cuda":
        return torch.stack(tuple(rows)).to(device)
    # pinned memory comes from torch's caching host allocator, which reuses a block only after its copy is done
    staging = torch.empty((len(rows), *rows[0].shape), dtype=rows[0].dtype, pin_memory=True)
    torch.stack(tuple(rows), out=staging)
    inward, computing = _stream(device, "in"), torch.cuda.current_stream(device)
    with torch.cuda.stream(inward):  # beside what is computed now
        batch = staging.to(device, non_blocking=True)
    computing.wait_stream(inward)
    batch.record_stream(computing)
    return batch


class AsyncHostCopy:
    """Outputs that are being copied to the host. `arrived` waits for them, and for nothing that was launched later."""

    def __init__(self, outputs: torch.Tensor) -> None:
        outward = _stream(outputs.device, "out")
        outward.wait_stream(torch.cuda.current_stream(outputs.device))
        with torch.cuda.stream(outward):
            self._host = torch.empty(outputs.shape, dtype=outputs.dtype, pin_memory=True)
            self._host.copy_(outputs, non_blocking=True)
            self._copied = torch.cuda.Event(blocking=True)  # or waiting would take a core
            self._copied.record(outward)
        outputs.record_stream(outward)

    def arrived(self) -> np.ndarray:
        self._copied.synchronize()
        return self._host.numpy()


def copy_back(outputs: torch.Tensor) -> torch.Tensor | AsyncHostCopy:
    """Begin to copy outputs to the host, where that can be begun and waited for later."""
    return AsyncHostCopy(outputs) if outputs.is_cuda else outputs


@functools.cache
def _stream(device: torch.device, purpose: str) -> torch.cuda.Stream:
    """The device's own queue for a purpose, beside the one that computes."""
    return torch.cuda.Stream(device)


def free_memory() -> None:
    """Give cached device memory back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def memory(name: str) -> dict[str, int]:
    """Return bytes of the memory of the device of this `device_name`: in tensors of this process, held by torch for it,
    and in all. Nothing but for CUDA. Asks torch's own books, not the device, so it waits for nothing."""
    device = name.partition(" ")[0]
    if not device.startswith("cuda"):
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "total": torch.cuda.get_device_properties(device).total_memory,
    }


def works(device: torch.device) -> bool:
    """Run something tiny. After some errors every call of this process fails, whatever it is."""
    try:
        return torch.ones(1, device=device).add_(1).item() == 2
    except torch.OutOfMemoryError:
        return True
    except RuntimeError:
        return False
