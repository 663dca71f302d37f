"""Conversions between the wire's tensors, torch and numpy."""

from __future__ import annotations

import numpy as np
import torch

from smartbatch.shared.wire import DTYPE_BYTES, Tensor


def to_torch(tensor: Tensor) -> torch.Tensor:
    """Copy a checked wire tensor, in C or Fortran order, to a C-contiguous torch tensor."""
    dtype = getattr(torch, tensor.dtype)
    if not len(tensor.data):
        return torch.empty(tensor.shape, dtype=dtype)
    flat = torch.frombuffer(bytearray(tensor.data), dtype=dtype)  # the copy: torch has no read-only tensors
    if tensor.order == "C":
        return flat.reshape(tensor.shape)
    reverse = tuple(range(len(tensor.shape)))[::-1]
    return flat.reshape(tensor.shape[::-1]).permute(reverse).contiguous()


def from_numpy(array: np.ndarray) -> Tensor:
    """Convert to a wire tensor. Raises ValueError for dtypes that the wire lacks (objects, strings, complex)."""
    dtype = array.dtype.name
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"expected outputs of type {', '.join(DTYPE_BYTES)}, got {dtype}")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return Tensor(dtype, array.shape, little.tobytes())


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Copy to the host. 16-bit floats become float32, which every client can read."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.detach().cpu().numpy()
