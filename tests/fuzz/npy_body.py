"""application/x-npy."""

from __future__ import annotations

import io

import numpy as np

from tests.fuzz.bodies import read
from tests.fuzz.harness import fuzz


def seeds() -> list[bytes]:
    arrays = [
        np.zeros((2, 3, 4, 4), np.float32),
        np.asfortranarray(np.ones((3, 4), np.int16)),
        np.zeros((), bool),
        np.zeros((0, 4), ">f8"),
        np.zeros(2, [("a", "i4")]),
    ]
    files = []
    for array in arrays:
        file = io.BytesIO()
        np.save(file, array)
        files.append(file.getvalue())
    return [*files, files[0].replace(b"\x93NUMPY\x01", b"\x93NUMPY\x03"), files[0].replace(b"(2, 3", b"(9999999999, 3")]


def one(body: bytes) -> None:
    read(body, "application/x-npy")


if __name__ == "__main__":
    fuzz(one, seeds())
