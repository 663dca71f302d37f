"""application/msgpack."""

from __future__ import annotations

from typing import Any

import msgpack

from tests.fuzz.bodies import read
from tests.fuzz.harness import fuzz


def seeds() -> list[bytes]:
    bodies: list[Any] = [
        {"data": [1, 2.5, -3, 2**40]},
        {"data": [[1, 2], [3, 4]], "dtype": "int64", "shape": [4, 1]},
        {"data": bytes(16), "dtype": "float32", "shape": [1, 4]},
        {"data": ["text", "x" * 300]},
        {"image": [b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP"]},
        {"image": b"\x89PNG\r\n\x1a\n", "data": None},
        {"data": msgpack.ExtType(5, b"x"), "shape": msgpack.Timestamp(1)},
    ]
    bombs = [
        b"\x81\xa4data" + b"\xdd\xff\xff\xff\xff" * 50,
        b"\x81\xa4data" + b"\x91" * 2000,
        b"\x81\xa4data\xc6\xff\xff\xff\xff",
    ]
    return [msgpack.packb(body) or b"" for body in bodies] + bombs


def one(body: bytes) -> None:
    read(body, "application/msgpack")


if __name__ == "__main__":
    fuzz(one, seeds())
