"""What smartbatch.client returns: the rows of all responses to one `predict`, in order."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np

from smartbatch.shared import errors


class Prediction(msgspec.Struct):
    """The result of all rows, in order. A model gives one of `outputs`, `values` and `predictions`."""

    outputs: dict[str, np.ndarray]  # by name, of shape (rows, …); bfloat16 becomes float32
    values: list[Any]  # one per row
    predictions: list[list[dict[str, Any]]]  # per row its classes, best first: label, class_id, probability
    responses: list[
        dict[str, Any]
    ]  # per request that was sent: model, version, request_id, batch, timing_ms (milliseconds)
    failed: dict[int, errors.SmartBatchError]  # by row, with `partial`; it is also in the row's place (in outputs: 0)

    @property
    def array(self) -> np.ndarray:
        """The only output, of shape (rows, …). Raises ValueError if there isn't exactly one."""
        (array,) = self.outputs.values()
        return array


def join(answers: list[dict[str, Any]]) -> Prediction:
    """Join the responses to the parts of a request. Takes their rows out of them."""
    kind = next((name for name in ("outputs", "predictions") if any(name in answer for answer in answers)), "values")
    # A part whose rows have all failed has a list of None as values, whatever the model returns.
    parts = [answer.pop(kind, None) or answer.pop("values", []) for answer in answers]
    failed, start = {}, 0
    for answer, part in zip(answers, parts, strict=True):
        for error in answer.pop("errors", ()):
            failed[start + error["row"]] = errors.from_wire(error["code"], error["detail"])
        start += len(part) if isinstance(part, list) else next(iter(part.values()))["shape"][0]
    if kind == "outputs":
        names = next((part for part in parts if isinstance(part, dict)), {})
        return Prediction({name: _concatenate(name, parts) for name in names}, [], [], answers, failed)
    rows = [failed.get(row, value) for row, value in enumerate(itertools.chain(*parts))]
    values, predictions = (rows, []) if kind == "values" else ([], rows)
    return Prediction({}, values, predictions, answers, failed)


def _concatenate(name: str, parts: list[Any]) -> np.ndarray:
    """Join one output. Parts without it are zeros."""
    arrays = [_array(part[name]) if isinstance(part, dict) else None for part in parts]
    some = next(array for array in arrays if array is not None)
    return np.concatenate(
        [
            np.zeros((len(part), *some.shape[1:]), some.dtype) if array is None else array
            for part, array in zip(parts, arrays, strict=True)
        ]
    )


def _array(tensor: dict[str, Any]) -> np.ndarray:
    if tensor["dtype"] == "bfloat16":  # which numpy doesn't have: the upper half of a float32
        return (np.frombuffer(tensor["data"], "<u2").astype("<u4") << 16).view("<f4").reshape(tensor["shape"])
    return np.frombuffer(tensor["data"], tensor["dtype"]).reshape(tensor["shape"])
