"""Check that a response equals the reference, the result of the same body sent alone.

Batching must not change a result. Only rounding may differ, because a device may add in another order.
"""

from __future__ import annotations

import json
import math
from typing import Any

ABSOLUTE = 5e-3  # tolerance of probabilities; rounding in half precision stays within it
RELATIVE = 1e-2  # tolerance of other numbers, relative to the largest in the same list
RESULT_FIELDS = ("predictions", "outputs", "values")


class Unreadable(ValueError):
    """Not a response of POST /predict."""


def result(response: bytes) -> Any:
    """Return the model's result, without the fields that differ between requests. Raises Unreadable."""
    try:
        document = json.loads(response)
        return next(document[field] for field in RESULT_FIELDS if field in document)
    except (ValueError, TypeError, StopIteration):
        shown = response[:80].decode(errors="replace")
        raise Unreadable(f"expected JSON with one of {', '.join(RESULT_FIELDS)}, got {shown!r}") from None


def difference(expected: Any, got: Any) -> float:
    """Return the difference of two results in units of the tolerance: up to 1 they agree.

    It is infinite if they cannot be compared (another class, another shape).
    """
    if _is_ranking(expected) and _is_ranking(got):
        return _ranking_difference(expected, got)
    if isinstance(expected, dict) and isinstance(got, dict):
        if expected.keys() != got.keys():
            return math.inf
        return max((difference(expected[key], got[key]) for key in expected), default=0.0)
    if isinstance(expected, list) and isinstance(got, list):
        if len(expected) != len(got):
            return math.inf
        if expected and all(_is_number(each) for each in (*expected, *got)):
            return _number_difference(expected, got)
        return max((difference(*pair) for pair in zip(expected, got, strict=True)), default=0.0)
    if _is_number(expected) and _is_number(got):
        return _number_difference([expected], [got])
    return 0.0 if expected == got else math.inf


def _number_difference(expected: list[Any], got: list[Any]) -> float:
    tolerance = max(1e-6, RELATIVE * max(map(abs, expected)))
    return max(abs(one - other) for one, other in zip(expected, got, strict=True)) / tolerance


def _ranking_difference(expected: list[dict], got: list[dict]) -> float:
    """Compare probabilities by class, because classes of nearly equal probability may change places."""
    probabilities = {score["class_id"]: score["probability"] for score in got}
    lowest = min(probabilities.values(), default=0.0)
    differences = [abs(score["probability"] - probabilities.get(score["class_id"], lowest)) for score in expected]
    return math.inf if len(expected) != len(got) else max(differences, default=0.0) / ABSOLUTE


def _is_ranking(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_class_score, value))


def _is_class_score(value: Any) -> bool:
    return isinstance(value, dict) and "class_id" in value and _is_number(value.get("probability"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
