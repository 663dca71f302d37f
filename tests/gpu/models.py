"""Models for the tests of a device, each with one thing that only a device shows."""

import torch
from torch import nn

from smartbatch import InputSpec

ROW = InputSpec(("tensor",), "float32", (4,))


class Tagged(nn.Module):
    """Returns its rows, so each is known by its values."""

    input = ROW

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch * 2


class Greedy:
    """Takes a third of the device's memory for each row: no more than two fit at once."""

    input = ROW

    def load(self, device: torch.device) -> None:
        self.bytes = torch.cuda.get_device_properties(device).total_memory // 3

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        held = [torch.empty(self.bytes, dtype=torch.uint8, device=batch.device) for _ in range(len(batch))]
        return batch + len(held) * 0


class Asserting:
    """An index out of range, for rows that begin with -1: a device-side assertion, after which no call succeeds."""

    input = ROW

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        table = torch.arange(10.0, device=batch.device)
        table[torch.where(batch[:, 0] < 0, 1_000_000, 0).long()]
        return batch * 2
