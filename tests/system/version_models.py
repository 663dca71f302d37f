"""Versions of the simulated model that differ from it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from smartbatch.shared.model_info import InputSpec, OutputSpec
from smartbatch.worker.models.simulated import WIDTH, expected

Rows = list[np.ndarray]


class Shifted:
    """Each output is that of the simulated model plus a quarter. A row whose first one is below 0.1 fails."""

    input = InputSpec(("raw",))
    outputs = (OutputSpec("output", "float32", (WIDTH,)),)
    offset = np.float32(0.25)
    fails_below = 0.1

    def decode(self, payload: Any) -> Rows:
        return [np.array(expected(bytes(payload.content.data)), np.float32)]  # (10,) float32

    def example(self) -> np.ndarray:
        return np.full(WIDTH, 0.5, np.float32)

    def forward(self, batch: Any) -> Any:
        rows = np.asarray(batch)  # (rows, 10) float32
        time.sleep(0.002)
        if (rows[:, 0] < self.fails_below).any():
            raise RuntimeError("this version fails on some inputs")
        return {"output": rows + self.offset}
