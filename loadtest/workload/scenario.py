"""Choose the bodies to send to a model, by its metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.workload import bodies
from loadtest.workload.bodies import Body

SCENARIOS = ("auto", "photos", "json", "npy", "msgpack", "texts", "bytes", "mixed")
MIXED_WEIGHTS = {"photos": 6, "npy": 2, "msgpack": 1, "json": 1}
INPUT_KIND = {"photos": "image", "json": "tensor", "npy": "tensor", "msgpack": "tensor", "texts": "text"}


class NoScenario(ValueError):
    """The model does not accept the scenario; the text says what it accepts."""


def choose(scenario: str, files: Sequence[Path], info: dict[str, Any]) -> tuple[str, list[Body]]:
    """Return the scenario's name and its bodies, all equally likely. Raises NoScenario or ValueError.

    `info` is the model's metadata. Its `input` has the kinds, and a row's dtype and shape if they are known.
    """
    if files:
        return "own files", [bodies.from_file(path) for path in files]
    kinds, shape, dtype = info["input"]["kinds"], info["input"].get("shape"), info["input"].get("dtype") or "float32"
    raw = "raw" in kinds
    shape = [size if size > 0 else 16 for size in shape] if shape else [3, 224, 224] if raw else None
    makers: dict[str, Callable[[], list[Body]]] = {"texts": bodies.texts, "photos": bodies.photos}
    if shape:
        makers["json"] = lambda: bodies.json_tensors(shape, dtype)
        makers["npy"] = lambda: bodies.npy_tensors(shape, dtype)
        makers["msgpack"] = lambda: bodies.msgpack_tensors(shape, dtype)
    makers["bytes"] = bodies.plain_bytes
    accepted = [name for name in makers if raw or INPUT_KIND.get(name) in kinds]
    if scenario == "auto":
        scenario = next((name for name in (("bytes",) if raw else ("photos", "texts", "npy")) if name in accepted), "")
    if scenario == "mixed":
        return scenario, _mixed({name: makers[name]() for name in MIXED_WEIGHTS if name in accepted})
    if scenario not in accepted:
        raise NoScenario(
            f"the model accepts {' or '.join(kinds)}{'' if shape else ' of unknown shape'}: choose --scenario "
            f"{', '.join(accepted) or '(none fits)'}, or give files of your own (--body request.json)"
        )
    return scenario, makers[scenario]()


def _mixed(kinds: dict[str, list[Body]]) -> list[Body]:
    """Repeat bodies until each kind has its weight."""
    if not kinds:
        raise NoScenario("the model accepts neither photos nor tensors, so there is nothing to mix")
    return [some[number % len(some)] for name, some in kinds.items() for number in range(MIXED_WEIGHTS[name] * 6)]
