"""Where torch computes: choosing the device, moving batches there, and giving its memory back."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shared.errors import ModelLoadError
from worker.models.contract import LoadContext

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
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
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
    return staging.to(device, non_blocking=True)


def free_memory() -> None:
    """Give cached device memory back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def works(device: torch.device) -> bool:
    """Run something tiny. After some errors every call of this process fails, whatever it is."""
    try:
        return torch.ones(1, device=device).add_(1).item() == 2
    except torch.OutOfMemoryError:
        return True
    except RuntimeError:
        return False
