from __future__ import annotations

import math
import struct

import pytest

from smartbatch.gateway.routing.comparison import Difference, difference
from smartbatch.shared.wire import Result, Tensor


def floats(*values: float) -> Result:
    return Result(outputs={"output": Tensor("float32", (1, len(values)), struct.pack(f"<{len(values)}f", *values))})


CAT, DOG = (285, "cat", 0.75), (151, "dog", 0.25)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Result(classes=[[CAT, DOG]]), Result(classes=[[CAT, DOG]]), Difference()),
        (Result(classes=[[CAT, DOG]]), Result(classes=[[(285, "cat", 0.5), DOG]]), Difference(False, 0.25)),
        (Result(classes=[[CAT, DOG]]), Result(classes=[[(151, "dog", 0.5), CAT]]), Difference(True, 0.25)),
        (Result(classes=[[CAT]]), Result(classes=[[CAT], [DOG]]), Difference(True)),
        (floats(1.0, 2.0), floats(1.0, 2.5), Difference(False, 0.5)),
        (floats(1.0, math.nan), floats(1.0, math.nan), Difference()),
        (floats(1.0, math.nan), floats(1.0, 2.0), Difference(False, math.inf)),
        (floats(1.0), floats(1.0, 2.0), Difference(True)),
        (floats(1.0), Result(values=[1.0]), Difference(True)),
        (Result(values=["a"]), Result(values=["a"]), Difference()),
        (Result(values=["a"]), Result(values=["b"]), Difference(True)),
    ],
)
def test_results_are_compared_by_their_first_class_and_their_numbers(one, other, expected):
    assert difference(one, other) == expected
    assert difference(other, one) == expected
