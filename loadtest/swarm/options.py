"""What loadtest/locustfile.py adds to Locust's command line, and to the form of its web page."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from loadtest.swarm.references import Chosen
from loadtest.traffic import bodies
from loadtest.traffic.shapes import SHAPES

KINDS = {"photo": 6, "json": 1, "npy": 2, "msgpack": 1}  # how often each is sent, relative to the others


def add(parser: Any) -> None:
    parser.add_argument("--shape", choices=list(SHAPES), default="steady", help="how the number of users changes")
    for kind, weight in KINDS.items():
        parser.add_argument(f"--{kind}-weight", type=_weight, default=weight, help=f"how often {kind} is sent")
    parser.add_argument("--tensor-shape", default="3,224,224", help="of one row, for json, npy and msgpack")
    parser.add_argument("--tensor-dtype", default="float32", help="float32, float64, uint8 or int64")
    parser.add_argument("--body", default="", help="files of your own to send instead, by comma")
    parser.add_argument("--model", default="", help="the model to ask (?model=), if the server has several")
    parser.add_argument("--think-time", type=float, default=0.0, help="seconds between an answer and the next request")
    parser.add_argument(
        "--api-key",
        env_var="SMARTBATCH_API_KEY",
        default=os.environ.get("SMARTBATCH_API_KEY", ""),
        include_in_web_ui=False,
        help="better in the environment: options show in the process list",
    )


def chosen(options: argparse.Namespace) -> Chosen:
    """Return weight and bodies by kind. Raises ValueError that says what was expected."""
    if options.body:
        own = [bodies.own(Path(name.strip())) for name in options.body.split(",")]
        return {"own": (1, own)}
    try:
        shape = tuple(int(side) for side in options.tensor_shape.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ValueError(
            f"--tensor-shape: expected whole numbers by comma, like 3,224,224, got {options.tensor_shape!r}"
        )
    makers = {
        "photo": bodies.photos,
        "json": lambda: bodies.json_tensors(shape, options.tensor_dtype),
        "npy": lambda: bodies.npy_tensors(shape, options.tensor_dtype),
        "msgpack": lambda: bodies.msgpack_tensors(shape, options.tensor_dtype),
    }
    weights = {kind: getattr(options, f"{kind}_weight") for kind in makers}
    if not any(weights.values()):
        raise ValueError("every weight is 0, so there is nothing to send")
    return {kind: (weight, makers[kind]()) for kind, weight in weights.items() if weight}


def _weight(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}")
    return int(text)
