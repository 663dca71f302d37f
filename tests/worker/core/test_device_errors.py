"""What an error says about the device, by torch's texts."""

from __future__ import annotations

import pytest
import torch

from smartbatch.worker.core.device_errors import is_lost, is_out_of_memory, may_be_lost

LAUNCH_NOTE = "\nCUDA kernel errors might be asynchronously reported at some other API call."


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory" + LAUNCH_NOTE),
        RuntimeError("CUDA error: out of memory" + LAUNCH_NOTE),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1.00 GB)."),
        MemoryError(),
    ],
    ids=lambda error: f"{type(error).__name__}: {error}"[:50],
)
def test_out_of_memory(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_lost(error)


def test_what_torch_raises_on_a_cpu_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60)
    assert is_out_of_memory(raised.value)


def test_out_of_memory_is_detected_in_the_cause() -> None:
    wrapped = ValueError("this input is too long")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered" + LAUNCH_NOTE),
        RuntimeError("CUDA error: an illegal memory access was encountered" + LAUNCH_NOTE),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("HIP error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    ],
    ids=str,
)
def test_a_lost_device(error: Exception) -> None:
    assert is_lost(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(…)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        torch.AcceleratorError("CUDA error: invalid configuration argument"),
    ],
    ids=str,
)
def test_an_unclear_device_error_requires_a_trial(error: Exception) -> None:
    assert may_be_lost(error)
    assert not is_lost(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        ValueError("CUDA error: device-side assert triggered"),
        KeyError("out of memory"),
    ],
    ids=str,
)
def test_a_rows_own_error_says_nothing_about_the_device(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert not is_lost(error)
    assert not may_be_lost(error)
