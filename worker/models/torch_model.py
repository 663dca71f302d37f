"""What the models that torch runs share: a device, and a network if they hand one over."""

from __future__ import annotations

import logging

import torch

from smartbatch.worker.core import device as devices
from smartbatch.worker.core.model import ChosenVariant, LoadContext, Model
from smartbatch.worker.optimization.network import ServedNetwork

log = logging.getLogger(__name__)


class TorchModel(Model):
    """Subclasses set `_device` and `network` when they load."""

    _device = torch.device("cpu")
    network: ServedNetwork | None = None

    def optimize(self, network: ServedNetwork, context: LoadContext) -> bool:
        """Choose the network's variant. Returns whether its batches may overlap on a device that allows it."""
        if context.optimize != "auto" and self._device.type == "cpu":
            return False
        if refusal := network.refusal():
            log.info("OPTIMIZE: the network serves as it is: %s", refusal)
        elif context.optimize == "auto":
            network.optimize(context)
        return not refusal

    @property
    def variant(self) -> ChosenVariant:
        return self.network.variant if self.network else super().variant

    @property
    def device_id(self) -> str:
        return devices.device_id(self._device)

    def free_memory(self) -> None:
        devices.free_memory()

    def device_memory(self) -> dict[str, int]:
        return devices.memory(self.device_name)

    def device_works(self) -> bool:
        return devices.works(self._device)
