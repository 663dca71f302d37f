"""Split the outputs of a user's model into rows, and turn rows into a result.

Arrays become output tensors; anything else that JSON can represent becomes values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from smartbatch.shared.model_info import OutputSpec
from smartbatch.shared.wire import Result
from smartbatch.worker.core.device import AsyncHostCopy
from smartbatch.worker.core.tensors import from_numpy, to_numpy


def split_rows(outputs: Any, rows: int) -> list[Any]:
    """Split a tensor, an array, a dict or tuple of such, or a list with one output per row. Copies to the host.

    Raises RuntimeError (the model's fault, not the input's) for other types and for a wrong number of rows.
    """
    if isinstance(outputs, dict):
        columns = {name: split_rows(column, rows) for name, column in outputs.items()}
        return [{name: column[row] for name, column in columns.items()} for row in range(rows)]
    if isinstance(outputs, tuple):
        return list(zip(*(split_rows(column, rows) for column in outputs), strict=True))
    if isinstance(outputs, torch.Tensor | AsyncHostCopy):
        outputs = _on_host(outputs)
    if isinstance(outputs, np.ndarray | np.generic) and not outputs.ndim:
        raise RuntimeError(
            f"forward returned one number for {rows} rows; the first dimension of an output must be the rows"
        )
    if isinstance(outputs, np.ndarray):
        parts: list[Any] = list(outputs)
    elif isinstance(outputs, list):
        parts = [_on_host(part) if isinstance(part, torch.Tensor | AsyncHostCopy) else part for part in outputs]
    else:
        raise RuntimeError(
            f"forward returned a {type(outputs).__name__}; expected a tensor, array, dict, tuple or list"
        )
    if len(parts) != rows:
        raise RuntimeError(f"forward returned {len(parts)} outputs for {rows} rows")
    return parts


def _on_host(output: torch.Tensor | AsyncHostCopy) -> np.ndarray:
    return output.wait() if isinstance(output, AsyncHostCopy) else to_numpy(output)


def from_row_outputs(rows: Sequence[Any]) -> Result:
    """Make the result of one request's rows. Raises TypeError for values that no tensor and no JSON can represent."""
    columns = _columns(rows)
    if columns is not None:
        return Result(outputs={name: from_numpy(np.stack(column)) for name, column in columns.items()})
    return Result(values=[_plain(row) for row in rows])


def check_announced(rows: Sequence[Any], announced: Sequence[OutputSpec]) -> None:
    """Compare the arrays of each row with what the model announced. Raises RuntimeError for another dtype or shape.

    A model may return other values in place of arrays, and arrays that it did not announce.
    """
    for row in rows if announced else ():
        arrays = _named_arrays(row) or {}
        for spec in announced if arrays else ():
            if (array := arrays.get(spec.name)) is None:
                raise RuntimeError(f"the output {spec.name!r} is missing; the model announced it")
            shape = array.shape
            fits = len(shape) == len(spec.shape) and all(e in (-1, s) for e, s in zip(spec.shape, shape, strict=True))
            if array.dtype.name != spec.dtype or not fits:
                raise RuntimeError(
                    f"the output {spec.name!r} is {array.dtype.name} {list(shape)} per row; "
                    f"the model announced {spec.dtype} {list(spec.shape)}"
                )


def _columns(rows: Sequence[Any]) -> dict[str, list[np.ndarray]] | None:
    """Return the rows' arrays by output name, or None if they aren't arrays or can't be stacked."""
    named = [_named_arrays(row) for row in rows]
    first = named[0]
    if not first or any(row is None or row.keys() != first.keys() for row in named):
        return None
    columns = {name: [row[name] for row in named if row] for name in first}
    stackable = all(len({(array.shape, array.dtype) for array in column}) == 1 for column in columns.values())
    return columns if stackable else None


def _named_arrays(row: Any) -> dict[str, np.ndarray] | None:
    if isinstance(row, dict):
        parts = {str(name): value for name, value in row.items()}
    elif isinstance(row, tuple):
        parts = {f"output_{index}": value for index, value in enumerate(row)}
    else:
        parts = {"output": row}
    if not all(isinstance(value, torch.Tensor | np.ndarray | np.generic) for value in parts.values()):
        return None
    arrays = {name: to_numpy(v) if isinstance(v, torch.Tensor) else np.asarray(v) for name, v in parts.items()}
    return arrays if all(array.dtype.kind in "biuf" for array in arrays.values()) else None


def _plain(value: Any) -> Any:
    """Return a value as JSON types, arrays as nested lists."""
    if value is None or isinstance(value, str | bool | int | float):
        # np.float64 is a float and np.str_ a str, but msgpack rejects both
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, torch.Tensor):
        value = to_numpy(value)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufU":
        return value.tolist()
    raise TypeError(f"encode returned a {type(value).__name__}, which neither a tensor nor JSON can represent")
