"""Small models for the tests of the Open Inference Protocol."""

from __future__ import annotations

import time

import numpy as np

from smartbatch.shared.model_info import InputSpec, OutputSpec
from smartbatch.worker.core.tensors import to_torch


class Echo:
    """Returns its input in the input's type and shape; its input spec accepts nearly anything."""

    input = InputSpec(("tensor", "text", "raw"))

    def decode(self, payload):
        if payload.kind == "tensor":
            return list(to_torch(payload.content).numpy())
        return [payload.content.data] if payload.kind == "raw" else list(payload.content)

    def collate(self, rows):
        return rows

    def forward(self, rows):
        return rows

    def encode(self, row):
        return {"length": len(row)} if isinstance(row, bytes) else row


class Arithmetic:
    """Three outputs of two numbers. A first number over 1000 makes the batch take as many milliseconds more."""

    input = InputSpec(("tensor",), "float32", (2,), name="x")
    outputs = (
        OutputSpec("double", "float32", (2,)),
        OutputSpec("half", "float16", (2,)),
        OutputSpec("positive", "bool", (2,)),
    )

    def forward(self, batch):
        time.sleep(max(0.0, float(batch[:, 0].max()) - 1000) / 1000)
        numbers = batch.float().numpy()
        return {"double": numbers * 2, "half": (numbers / 2).astype(np.float16), "positive": numbers > 0}
