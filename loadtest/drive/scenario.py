"""What is sent, by what the model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.traffic import bodies
from loadtest.traffic.bodies import Body

SCENARIOS = ("auto", "photos", "json", "npy", "msgpack", "texts", "bytes", "mixed")
MIXED = {"photos": 6, "npy": 2, "msgpack": 1, "json": 1}  # bodies of a kind are repeated until they have this share
TAKEN_BY = {"photos": "image", "json": "tensor", "npy": "tensor", "msgpack": "tensor", "texts": "text", "bytes": "raw"}


class NoScenario(Exception):
    """The model doesn't take what was asked for; says what it takes."""


def choose(scenario: str, own: Sequence[Path], info: dict[str, Any]) -> tuple[str, list[Body]]:
    """Return the scenario's name and its bodies, each as likely as the next. Raises NoScenario or ValueError.

    `info` is the announcement of the model: its `input` has kinds, and dtype and shape of a row where it knows them.
    """
    if own:
        return "own files", [bodies.own(path) for path in own]
    takes = info["input"]
    kinds, shape, dtype = takes["kinds"], takes.get("shape"), takes.get("dtype") or "float32"
    raw = "raw" in kinds
    shape = [size if size > 0 else 16 for size in shape] if shape else [3, 224, 224] if raw else None
    makers: dict[str, Callable[[], list[Body]]] = {"texts": bodies.texts, "photos": bodies.photos}
    if shape:
        makers["json"] = lambda: bodies.json_tensors(shape, dtype)
        makers["npy"] = lambda: bodies.npy_tensors(shape, dtype)
        makers["msgpack"] = lambda: bodies.msgpack_tensors(shape, dtype)
    makers["bytes"] = bodies.plain_bytes
    possible = [name for name in makers if raw or TAKEN_BY[name] in kinds]
    if scenario == "auto":
        order = ("bytes",) if raw else ("photos", "texts", "npy")
        scenario = next((name for name in order if name in possible), "")
    if scenario == "mixed":
        return scenario, _mixed({name: makers[name]() for name in MIXED if name in possible})
    if scenario not in possible:
        raise NoScenario(
            f"the model takes {' or '.join(kinds)}{'' if shape else ' of no announced shape'}: choose --scenario "
            f"{', '.join(possible) or '(none fits)'}, or give files of your own (--body request.json)"
        )
    return scenario, makers[scenario]()


def _mixed(parts: dict[str, list[Body]]) -> list[Body]:
    """Repeat bodies until the kinds have their shares."""
    if not parts:
        raise NoScenario("the model takes neither photos nor tensors, so there is nothing to mix")
    return [
        each for name, some in parts.items() for number in range(MIXED[name] * 6) for each in [some[number % len(some)]]
    ]
