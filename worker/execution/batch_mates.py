"""Whether a row's output depends on the other rows of its batch, or on chance. It should depend on neither."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

# By compute dtype, of the largest output. Kernels round differently for other batch sizes: ResNet50 on a CPU by 1e-6
# of the largest output in float32.
TOLERANCES = {"float64": 1e-6, "float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}


class Comparison:
    """Compares one row's outputs in several batches."""

    def __init__(self, dtype: str) -> None:
        self._tolerance = TOLERANCES.get(dtype, max(TOLERANCES.values()))
        self._alone: list[np.ndarray] = []
        self._difference = 0.0  # of the largest output
        self._rows = 0  # of the batch with the largest difference

    def add(self, output: Any, rows: int) -> None:
        """Add the row's output in a batch of `rows`; the first is what the others are compared with."""
        arrays = list(_arrays(output))
        if not self._alone:
            self._alone = arrays
            return
        difference = _difference(self._alone, arrays)
        if difference > self._difference:
            self._difference, self._rows = difference, rows

    @property
    def differs(self) -> bool:
        return self._difference > self._tolerance

    @property
    def warning(self) -> str:
        """What to tell whoever runs the model; empty if there is nothing to tell."""
        if not self.differs:
            return ""
        shown = f"by up to {self._difference:.3g} of its largest value (expected {self._tolerance:g} at most)"
        if self._rows == 1:
            return (
                f"THE MODEL'S OUTPUT IS RANDOM: run twice, one row gave outputs that differ {shown}. "
                "Is dropout active, or does forward draw random numbers?"
            )
        return (
            f"OTHER REQUESTS CHANGE A REQUEST'S RESULT: the output of one row alone and in a batch of {self._rows} "
            f"differs {shown}. Is a layer in training mode (batch normalization), or does forward mix rows?"
        )


def _difference(expected: list[np.ndarray], actual: list[np.ndarray]) -> float:
    """Return the largest difference, relative to the largest value of its array; infinite if they can't be compared."""
    if [array.shape for array in expected] != [array.shape for array in actual]:
        return float("inf")
    largest = 0.0
    for wanted, got in zip(expected, actual, strict=True):
        if wanted.dtype.kind not in "biuf" or got.dtype.kind not in "biuf":
            largest = max(largest, 0.0 if np.array_equal(wanted, got) else float("inf"))
        elif wanted.size:
            wanted, got = wanted.astype(np.float64), got.astype(np.float64)
            finite = np.isfinite(wanted) & np.isfinite(got)
            scale = np.abs(wanted[finite]).max(initial=0.0) or 1.0
            largest = max(largest, float(np.abs(wanted - got)[finite].max(initial=0.0) / scale))
            if not np.array_equal(wanted[~finite], got[~finite], equal_nan=True):
                return float("inf")
    return largest


def _arrays(output: Any) -> Iterator[np.ndarray]:
    """Return the arrays in a row's output; what is no number becomes an array of its text."""
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        for part in output:
            yield from _arrays(part)
    elif hasattr(output, "detach"):  # a tensor of torch
        yield output.detach().float().cpu().numpy()
    elif isinstance(output, np.ndarray | np.generic | bool | int | float):
        yield np.asarray(output)
    else:
        yield np.asarray(str(output))
