"""Tell device errors from errors of a model, by their type and text. Pure: never imports torch.

Sources of the texts: torch's c10/cuda/CUDAException.cpp ("CUDA error: " and the text of cudaGetErrorString), ATen's
cuBLAS and cuDNN handle pools, c10/core/impl/alloc_cpu.cpp, and the MPS allocator. HIP uses the same texts.
"""

from __future__ import annotations

from collections.abc import Iterator

_OUT_OF_MEMORY = (
    "CUDA error: out of memory",
    "HIP error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "HIPBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
# After these errors every later call of the process fails, whatever its input.
_LOST = (
    "device-side assert triggered",
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "misaligned address",
    "invalid program counter",
    "operation not supported on global/shared address space",
    "hardware stack error",
    "unspecified launch failure",
    "the launch timed out and was terminated",
    "uncorrectable ECC error encountered",
    "context is destroyed",
    "driver shutting down",
)
_DEVICE_CALLS = ("CUDA error", "HIP error", "CUBLAS_STATUS", "CUDNN_STATUS", "CUSOLVER_STATUS", "CUFFT_")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether fewer rows might have fitted."""
    return any(
        isinstance(each, MemoryError)
        or type(each).__name__ == "OutOfMemoryError"
        or (isinstance(each, RuntimeError) and _contains(each, _OUT_OF_MEMORY))
        for each in _causes(error)
    )


def is_lost(error: BaseException) -> bool:
    """Return whether this process can't use the device any more."""
    return any(_from_device(each) and _contains(each, _LOST) for each in _causes(error))


def may_be_lost(error: BaseException) -> bool:
    """Return whether the error came from the device, which the caller should then test."""
    return any(_from_device(each) for each in _causes(error))


def _from_device(error: BaseException) -> bool:
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and _contains(error, _DEVICE_CALLS)
    )


def _contains(error: BaseException, texts: tuple[str, ...]) -> bool:
    message = str(error)
    return any(text in message for text in texts)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes: a model may wrap what torch raised."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__
