"""Tensors of the wire as torch tensors, and numpy arrays as tensors of the wire."""

from __future__ import annotations

import numpy as np
import torch

from smartbatch.shared.wire import DTYPE_BYTES, Tensor


def to_torch(tensor: Tensor) -> torch.Tensor:
    """Copy a checked wire tensor, in either order, to a C-contiguous one."""
    dtype = getattr(torch, tensor.dtype)
    if not len(tensor.data):
        return torch.empty(tensor.shape, dtype=dtype)
    flat = torch.frombuffer(bytearray(tensor.data), dtype=dtype)  # the copy: torch has no read-only tensors
    if tensor.order == "C":
        return flat.reshape(tensor.shape)
    reverse = tuple(range(len(tensor.shape)))[::-1]
    return flat.reshape(tensor.shape[::-1]).permute(reverse).contiguous()


def from_numpy(array: np.ndarray) -> Tensor:
    """Raises ValueError for a dtype that the wire doesn't know (objects, strings, complex numbers)."""
    dtype = array.dtype.name
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"outputs are numbers of type {', '.join(DTYPE_BYTES)}, not {dtype}")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return Tensor(dtype, array.shape, little.tobytes())


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Copy to the host; 16-bit floats become float32, so that every client can read them."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.detach().cpu().numpy()
