"""A simulated accelerator, to test and measure the system without a device: a batch takes base + rows × row.

Batches run one after the other. With `device=NAME` so do those of all workers of this host that name the same device,
as on one that completes a batch before it starts one of another process. The output is a function of the row's bytes,
so tests can check it. Imports no torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import math
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from smartbatch.shared.errors import ModelLoadError
from smartbatch.shared.model_info import InputSpec, OutputSpec
from smartbatch.shared.wire import DTYPE_BYTES, Payload, Result, Tensor
from smartbatch.worker.core.host_folder import host_folder
from smartbatch.worker.core.model import LoadContext, Model

WIDTH = 10  # floats per row
_PLACES = np.array([2**-24, 2**-16, 2**-8], np.float32)
DEFAULTS = {"base_ms": 4.0, "row_ms": 0.2, "load_ms": 0.0}


def expected(data: bytes) -> list[float]:
    """Return the model's output for a row of these bytes: ten floats in [0, 1), exact in float32.

    The bytes of a tensor's row are in C order, those of a text are UTF-8.
    """
    return _floats([_digest(data)])[0].tolist()


def _digest(data: Any) -> bytes:
    return hashlib.sha256(data).digest()  # 600 KB take 0.3 ms: processors have instructions for it


def _floats(digests: Sequence[bytes]) -> np.ndarray:
    """Make each float from three bytes, lowest first: 24 bits are exact in float32."""
    digits = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)[:, : 3 * WIDTH]
    return digits.reshape(-1, WIDTH, 3) @ _PLACES  # (rows, WIDTH) float32


class Simulated(Model):
    """A row is the digest of the input, computed in the decode threads."""

    platform = "simulated"
    device_name = "simulated"
    overlaps = True
    input = InputSpec(("raw",))
    outputs = (OutputSpec("output", "float32", (WIDTH,)),)

    def __init__(self, parameters: str = "") -> None:
        values, self._device = _parse(parameters)
        self._base_s = values["base_ms"] / 1000
        self._row_s = values["row_ms"] / 1000
        self._load_s = values["load_ms"] / 1000
        self._locks: list[int] = []  # of a device that several workers share
        self._free_at = 0.0  # when all launched batches will have ended, monotonic
        self._thread = threading.local()

    def load(self, context: LoadContext) -> None:
        time.sleep(self._load_s)
        if self._device:
            path = host_folder() / f"{self.device_id}.lock"
            self._locks = [os.open(f"{path}{n}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for n in range(2)]

    @property
    def device_id(self) -> str:
        return f"simulated-{self._device}" if self._device else ""

    def example(self) -> bytes:
        return _digest(b"")

    def decode(self, payload: Payload) -> list[bytes]:
        content: Any = payload.content
        if payload.kind == "tensor":
            return [_digest(row) for row in _rows(content)]
        if payload.kind == "raw":
            return [_digest(content.data)]
        return [_digest(row.encode() if isinstance(row, str) else row) for row in content]

    def group(self, row: bytes) -> None:
        """All rows can be collated."""

    def collate(self, rows: Sequence[bytes]) -> np.ndarray:
        return _floats(rows)  # (rows, WIDTH) float32

    def forward(self, batch: np.ndarray) -> tuple[np.ndarray, float]:
        """Start at once, or when the batches launched earlier have ended."""
        self._free_at = max(time.monotonic(), self._free_at) + self._run_s(len(batch))
        return batch, self._free_at

    def separate(self, outputs: tuple[np.ndarray, float], rows: int) -> list[np.ndarray]:
        batch, done_at = outputs
        if not self._locks:
            self._sleep_until(done_at)
            return list(batch)
        with self._whole_device():
            self._sleep_until(time.monotonic() + self._run_s(rows))
        return list(batch)

    def _run_s(self, rows: int) -> float:
        return self._base_s + rows * self._row_s

    @contextlib.contextmanager
    def _whole_device(self) -> Iterator[None]:
        """Exclude the other workers' batches. Of two workers that both want the device all the time each gets every
        other batch: while one waits for the second lock, it holds the first, so the other can't overtake it."""
        queue, device = self._locks
        fcntl.flock(queue, fcntl.LOCK_EX)
        fcntl.flock(device, fcntl.LOCK_EX)
        fcntl.flock(queue, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(device, fcntl.LOCK_UN)

    def _sleep_until(self, at: float) -> None:
        left_s = at - time.monotonic()
        if left_s > 0:
            if not hasattr(self._thread, "exact_timer"):
                self._thread.exact_timer = _set_exact_timer()
            time.sleep(left_s)

    def encode(self, rows: Sequence[np.ndarray], options: dict[str, Any]) -> Result:
        data = b"".join([row.tobytes() for row in rows])
        return Result(outputs={"output": Tensor("float32", (len(rows), WIDTH), data)})


def _set_exact_timer() -> bool:
    """Make the kernel end this thread's sleeps on time, not up to 50 µs late. Returns False if it can't."""
    pr_set_timerslack = 29
    try:
        return ctypes.CDLL(None).prctl(pr_set_timerslack, 1, 0, 0, 0) == 0
    except (OSError, AttributeError):  # Linux only
        return False


def _rows(tensor: Tensor) -> Sequence[Any]:
    """Return the bytes of each row in C order."""
    if tensor.order == "F":
        opaque = np.frombuffer(tensor.data, f"V{DTYPE_BYTES[tensor.dtype]}").reshape(tensor.shape, order="F")
        return [row.tobytes() for row in opaque]
    size = len(tensor.data) // max(1, tensor.shape[0])
    view = memoryview(tensor.data)
    return [view[start * size : (start + 1) * size] for start in range(tensor.shape[0])]


def _parse(parameters: str) -> tuple[dict[str, float], str]:
    """Return the durations and the name of the device."""
    values, device = dict(DEFAULTS), ""
    for part in filter(None, parameters.split(",")):
        name, _, text = part.partition("=")
        if name == "device" and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
            device = text
            continue
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if name not in DEFAULTS or not 0 <= value < math.inf:
            known = ",".join(f"{known}={default:g}" for known, default in DEFAULTS.items())
            raise ModelLoadError(
                f"simulated takes milliseconds from 0 as in `simulated:{known}`, and a name as in `device=NAME`, "
                f"got {part!r}"
            )
        values[name] = value
    return values, device
