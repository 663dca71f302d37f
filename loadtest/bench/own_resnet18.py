"""torchvision's ResNet18 as a user's class, with the weights that MODEL_WEIGHTS=random gives the built-in one."""

from __future__ import annotations

import torch
import torchvision

from smartbatch import InputSpec


class OwnResNet18:
    input = InputSpec(("tensor",), "float32", (3, 224, 224))

    def load(self, device: torch.device) -> None:
        torch.manual_seed(0)
        self.network = torchvision.models.resnet18()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.network(batch)
