"""How much the results of two versions for one request differ. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from smartbatch.gateway.formats.tensor_bytes import to_lists
from smartbatch.shared.wire import Result, Tensor

MAX_ELEMENTS = 4096  # of each tensor: to compare so many takes a millisecond


class Difference(msgspec.Struct):
    """`disagrees`: the first class of a row, or where there are none a value or the form of the result. `largest`:
    difference of two numbers of the outputs, or of two probabilities of a class that both have."""

    disagrees: bool = False
    largest: float = 0.0


def difference(one: Result, other: Result) -> Difference:
    if one.classes is not None and other.classes is not None:
        return _of_classes(one.classes, other.classes)
    if one.outputs is not None and other.outputs is not None:
        if {name: (t.dtype, t.shape) for name, t in one.outputs.items()} != {
            name: (t.dtype, t.shape) for name, t in other.outputs.items()
        }:
            return Difference(True)
        pairs = [(tensor, other.outputs[name]) for name, tensor in one.outputs.items()]
        return Difference(largest=max((_largest(a, b) for a, b in pairs), default=0.0))
    return Difference(one.values is None or one.values != other.values)


Classes = Sequence[Sequence[tuple[int, str, float]]]


def _of_classes(one: Classes, other: Classes) -> Difference:
    found = Difference(len(one) != len(other))
    for row, other_row in zip(one, other, strict=False):
        first, other_first = ([class_id for class_id, _, _ in each[:1]] for each in (row, other_row))
        found.disagrees |= first != other_first
        probabilities = {class_id: probability for class_id, _, probability in other_row}
        for class_id, _, probability in row:
            if class_id in probabilities:
                found.largest = max(found.largest, abs(probability - probabilities[class_id]))
    return found


def _largest(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of the first MAX_ELEMENTS elements; infinity where only one of two is a number."""
    pairs = zip(_elements(one), _elements(other), strict=True)
    return max(
        (abs(a - b) if a == a and b == b else (math.inf if a == a or b == b else 0.0) for a, b in pairs), default=0.0
    )


def _elements(tensor: Tensor) -> list[float]:
    count = min(math.prod(tensor.shape), MAX_ELEMENTS)
    size = len(tensor.data) // max(1, math.prod(tensor.shape))
    return to_lists(Tensor(tensor.dtype, (count,), tensor.data[: count * size]))
