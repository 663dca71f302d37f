"""application/x-npz."""

from __future__ import annotations

import io
import zipfile

import numpy as np

from tests.fuzz.bodies import read
from tests.fuzz.harness import fuzz


def seeds() -> list[bytes]:
    arrays = {"a": np.zeros((2, 3, 4, 4), np.float32), "b": np.ones((2, 2), np.float32)}
    files = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **arrays)
        files.append(file.getvalue())
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", b"x")
    return [*files, other.getvalue(), b"PK\x05\x06" + bytes(18)]


def one(body: bytes) -> None:
    read(body, "application/x-npz")


if __name__ == "__main__":
    fuzz(one, seeds())
