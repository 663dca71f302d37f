"""Modules of a user's own: one with two inputs and two outputs by name, one whose rows trigger the faults they name."""

from __future__ import annotations

import torch
from torch import nn

from smartbatch import InputSpec, OutputSpec


class Scaled(nn.Module):
    input = {  # noqa: RUF012
        "image": InputSpec(("tensor",), "float32", (3, 8, 8)),
        "scale": InputSpec(("tensor",), "float32", (1,)),
    }
    outputs = (OutputSpec("features", "float32", (4,)), OutputSpec("scaled", "float32", (4,)))

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.convolution(image).mean((2, 3))
        return {"features": features, "scaled": features * scale}


NAN, RAISES, TOO_FEW, TOO_MANY, OTHER_DTYPE, OTHER_SHAPE = range(1, 7)


class Faulty(nn.Module):
    input = InputSpec(("tensor",), "float32", (2,))
    outputs = (OutputSpec("output", "float32", (2,)),)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.kept = batch  # a reference to its input, which it changes
        faults = set(batch[:, 0].int().tolist())
        if RAISES in faults:
            raise ValueError("unlucky")
        outputs = batch.mul_(2)
        outputs[outputs[:, 0] == 2 * NAN] = float("nan")
        if TOO_FEW in faults:
            return outputs[1:]
        if TOO_MANY in faults:
            return torch.cat([outputs, outputs])
        if OTHER_DTYPE in faults:
            return outputs.double()
        return outputs[:, :1] if OTHER_SHAPE in faults else outputs
