"""application/json."""

from __future__ import annotations

from tests.fuzz.bodies import read
from tests.fuzz.harness import fuzz


def seeds() -> list[bytes]:
    return [
        b'{"data": [1, 2, 3, 4]}',
        b'{"data": [[1.5, -2e3], [true, null]], "dtype": "float32", "shape": [2, 2]}',
        b'{"data": [' + b"[1, 2], " * 40 + b"[3, 4]]}",
        b'{"data": ' + b"[" * 33 + b"1" + b"]" * 33 + b"}",
        rb'{"data": ["text", "\ud83d\ude00 \u0041", "\ud800"]}',
        b'{"shape": [9007199254740992, 0], "data": [], "dtype": "bfloat16"}',
        b'{"data": [NaN, Infinity, 1e999, -0, 18446744073709551616]}',
        b"\xef\xbb\xbf" + b'{"data": "a"}',
        b"[" * 1000,
    ]


def one(body: bytes) -> None:
    read(body, "application/json")


if __name__ == "__main__":
    fuzz(one, seeds())
