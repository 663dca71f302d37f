"""Whether an answer is the right one: the one that the same body got when nothing else was running.

Batching must change no answer. What may differ is the last digits, as a device may add in another order.
"""

from __future__ import annotations

import json
import math
from typing import Any

ABSOLUTE = 5e-3  # of probabilities; half precision in another order of additions stays within it
RELATIVE = 1e-2  # of the largest number in the same list
PARTS = ("predictions", "outputs", "values")


class Unreadable(ValueError):
    """Not an answer of POST /predict."""


def result(answer: bytes) -> Any:
    """What the model said, without the parts that differ from request to request. Raises Unreadable."""
    try:
        document = json.loads(answer)
        return next(document[part] for part in PARTS if part in document)
    except (ValueError, TypeError, StopIteration):
        shown = answer[:80].decode(errors="replace")
        raise Unreadable(f"expected JSON with one of {', '.join(PARTS)}, got {shown!r}") from None


def difference(expected: Any, got: Any) -> float:
    """How far two results are apart, in units of what is allowed: up to 1 they agree; infinite if they can't be
    compared (another class, another shape)."""
    if _is_ranking(expected) and _is_ranking(got):
        return _rankings(expected, got)
    if isinstance(expected, dict) and isinstance(got, dict):
        if expected.keys() != got.keys():
            return math.inf
        return max((difference(expected[key], got[key]) for key in expected), default=0.0)
    if isinstance(expected, list) and isinstance(got, list):
        if len(expected) != len(got):
            return math.inf
        if expected and all(_is_number(each) for each in (*expected, *got)):
            return _numbers(expected, got)
        return max((difference(*pair) for pair in zip(expected, got, strict=True)), default=0.0)
    if _is_number(expected) and _is_number(got):
        return _numbers([expected], [got])
    return 0.0 if expected == got else math.inf


def _numbers(expected: list[Any], got: list[Any]) -> float:
    allowed = max(1e-6, RELATIVE * max(map(abs, expected)))
    return max(abs(one - other) for one, other in zip(expected, got, strict=True)) / allowed


def _rankings(expected: list[dict], got: list[dict]) -> float:
    """Classes that are nearly as probable may change places; so each class that both name is compared."""
    named = {guess["class_id"]: guess["probability"] for guess in got}
    least = min(named.values(), default=0.0)
    apart = [abs(guess["probability"] - named.get(guess["class_id"], least)) for guess in expected]
    return math.inf if len(expected) != len(got) else max(apart, default=0.0) / ABSOLUTE


def _is_ranking(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_guess, value))


def _is_guess(value: Any) -> bool:
    return isinstance(value, dict) and "class_id" in value and _is_number(value.get("probability"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
