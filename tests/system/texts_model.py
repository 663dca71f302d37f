"""A user's model of rows that differ in length: `collate` pads them, and a forward takes fixed + tokens × a token.

A row is the bytes of a body, a token of it 16 bytes. Its output is that of the simulated model, read from the padded
batch.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from smartbatch.shared.model_info import InputSpec
from smartbatch.worker.models.simulated import expected

FIXED_S = float(os.environ.get("TEXTS_FIXED_MS", "2")) / 1000
TOKEN_S = float(os.environ.get("TEXTS_TOKEN_US", "50")) / 1e6
TOKEN_BYTES = 16


class Texts:
    input = InputSpec(("raw",))

    def decode(self, payload: Any) -> list[np.ndarray]:
        return [np.frombuffer(payload.content.data, np.uint8)]

    def example(self) -> np.ndarray:
        return np.zeros(20 * TOKEN_BYTES, np.uint8)

    def size(self, row: np.ndarray) -> int:
        return 1 + len(row) // TOKEN_BYTES

    def collate(self, rows: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
        padded = np.zeros((len(rows), max(map(len, rows))), np.uint8)
        for place, row in zip(padded, rows, strict=True):
            place[: len(row)] = row
        return padded, [len(row) for row in rows]

    def forward(self, batch: tuple[np.ndarray, list[int]]) -> dict[str, np.ndarray]:
        padded, lengths = batch
        rows, width = padded.shape
        time.sleep(FIXED_S + TOKEN_S * rows * (1 + width // TOKEN_BYTES))
        outputs = [expected(row[:length].tobytes()) for row, length in zip(padded, lengths, strict=True)]
        return {"output": np.array(outputs, np.float32)}
