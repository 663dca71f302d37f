"""Random rows like a given one: batch mates for warm-up, and inputs on which variants of a network are compared."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def mates(row: Any, count: int) -> list[Any]:
    """Return rows of the same shape and dtype with random values, none outside the range of the row's own values.

    Where a row's values are all alike, floats are drawn from [0, 1), since even an index made of one is 0. Of other
    values nothing is known then, and copies are returned; so they are for a row that isn't a tensor or an array.
    """
    if isinstance(row, dict) and row:
        columns = [mates(value, count) for value in row.values()]
        return [dict(zip(row, values, strict=True)) for values in zip(*columns, strict=True)]
    array: Any = row
    torch: Any = sys.modules.get("torch")  # before it is imported no row is a tensor
    if torch is not None and isinstance(row, torch.Tensor):
        kind = "f" if array.is_floating_point() else "c" if array.is_complex() else "i"
    else:
        kind = row.dtype.kind if isinstance(row, np.ndarray) else ""
    if kind not in ("b", "i", "u", "f") or 0 in array.shape:
        return [row] * count
    low, high = array.min().item(), array.max().item()
    if low == high and kind != "f":
        return [row] * count
    low, high = (low, high) if low < high else (0, 1)
    random, shape = np.random.default_rng(0), (count, *array.shape)
    if kind == "f":
        drawn = random.random(shape, np.float32) * (high - low) + low
    else:
        drawn = random.integers(int(low), int(high), shape, endpoint=True)
    if isinstance(row, np.ndarray):
        return list(drawn.astype(row.dtype))
    return list(array.new_tensor(drawn))


def resized(row: Any, size: int) -> Any:
    """Return the row repeated or cut to `size` in its first dimension; None where it isn't clear how."""
    if isinstance(row, list) and row:
        return [row[n % len(row)] for n in range(size)]
    if not getattr(row, "shape", ()) or not len(row):
        return None
    return row[np.arange(size) % len(row)]


def uneven(row: Any, count: int) -> list[Any]:
    """Return `mates` cut, by turns, to a half and to a third of the row. Raises ValueError if they can't be."""
    rows = [resized(mate, max(1, len(row) // (2 + number % 2))) for number, mate in enumerate(mates(row, count))]
    if any(each is None for each in rows):
        raise ValueError(f"a {type(row).__name__} has no length")
    return rows
