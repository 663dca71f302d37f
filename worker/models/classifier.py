"""The base of all image classifiers: images or tensors in, logits or labelled classes out.

A row is a (3, H, W) tensor: uint8 pixels, normalized on the device, or float32 that the client normalized. The two run
in separate forwards. Or a row is a (bytes,) uint8 tensor: a JPEG that the device decodes into pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.model_info import InputSpec, OutputSpec
from smartbatch.shared.wire import Payload, Result, Tensor
from smartbatch.worker.core import device as devices
from smartbatch.worker.core.model import LoadContext
from smartbatch.worker.core.tensors import from_numpy, to_numpy, to_torch
from smartbatch.worker.images import device_jpeg
from smartbatch.worker.images.decode import Preset, decode_images
from smartbatch.worker.images.device_jpeg import DeviceJpegs
from smartbatch.worker.images.header import Header
from smartbatch.worker.models.torch_model import TorchModel
from smartbatch.worker.optimization.network import ServedNetwork

FLOATS = ("float32", "float16", "bfloat16", "float64")


class Classifier(TorchModel):
    """Subclasses provide the preset and build the network."""

    classifier = True

    def __init__(self, preset: Preset) -> None:
        self._preset = preset
        self._max_pixels = LoadContext().max_image_pixels
        self._labels: list[str] = []
        self._jpegs: DeviceJpegs | None = None
        self.input = InputSpec(("image", "tensor"), "float32", (3, preset.crop, preset.crop))

    @abstractmethod
    def build(self, context: LoadContext) -> tuple[nn.Module, Sequence[str]]:
        """Return the network with its weights, and its labels in the order of its logits."""

    def load(self, context: LoadContext) -> None:
        self._max_pixels = context.max_image_pixels
        self._device = devices.open_device(context)
        self.compute_dtype = context.dtype
        self.overlaps = self._device.type == "cuda"
        self._mean = torch.tensor(self._preset.mean, device=self._device).view(3, 1, 1)
        self._std = torch.tensor(self._preset.std, device=self._device).view(3, 1, 1)
        network, labels = self.build(context)
        self.network = self._served = ServedNetwork(
            network.eval().to(self._device), self._device, context.dtype, self._noise
        )
        classes = self.separate(self.forward(self.collate([self.example()])), 1)[0].size
        self._labels = list(labels) if len(labels) == classes else [str(index) for index in range(classes)]
        self.outputs = (OutputSpec("logits", "float32", (classes,)),)
        self.device_name = devices.device_name(self._device)
        self.optimize(self.network, context)
        if context.optimize == "auto" and self._device.type == "cuda":
            context.progress("trying to decode JPEGs on the device")
            threads = context.decode_threads
            self._jpegs = device_jpeg.try_device(self._device, self._preset, context.max_batch_size, threads)

    def _noise(self, rows: int) -> torch.Tensor:
        """Return the batch on which variants are compared: reproducible, with distinct values."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn((rows, 3, self._preset.crop, self._preset.crop), generator=generator)
        return noise.to(self._device)  # (rows, 3, H, W) float32

    def example(self) -> torch.Tensor:
        return torch.full((3, self._preset.crop, self._preset.crop), 127, dtype=torch.uint8)

    def decode(self, payload: Payload) -> list[torch.Tensor]:
        content: Any = payload.content
        if payload.kind == "image":
            return decode_images(content, self._preset, self._max_pixels, self._defer_to_device)
        if payload.kind == "tensor":
            return self._decode_tensor(content)
        raise InvalidInput(f"expected an image or a tensor, got {payload.kind}")

    def _defer_to_device(self, header: Header) -> torch.Tensor | None:
        """Return the row of a JPEG that the device decodes, or None for other images."""
        jpegs = self._jpegs
        return jpegs.row(header) if jpegs is not None and jpegs.supports(header) else None

    def _decode_tensor(self, tensor: Tensor) -> list[torch.Tensor]:
        row = (3, self._preset.crop, self._preset.crop)
        if tensor.dtype not in (*FLOATS, "uint8"):
            raise InvalidInput(
                f"expected normalized floats ({', '.join(FLOATS)}) or raw uint8 pixels, got {tensor.dtype}"
            )
        if tuple(tensor.shape[1:]) != row:
            raise InvalidInput(f"expected a tensor of shape {['rows', *row]}, got {list(tensor.shape)}")
        batch = to_torch(tensor)
        return list(batch if batch.dtype == torch.uint8 else batch.float())

    def group(self, row: torch.Tensor) -> Hashable:
        return row.dtype  # rows of one dtype have one shape once decoded

    def collate(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return (rows, 3, H, W), uint8 or float32."""
        jpegs = [at for at, row in enumerate(rows) if row.dim() == 1]
        if not jpegs or self._jpegs is None:
            return devices.stack_on(self._device, rows)
        pixels = self._jpegs.pixels([rows[at] for at in jpegs])  # (jpegs, 3, H, W) uint8
        if len(jpegs) == len(rows):
            return pixels
        others = [at for at, row in enumerate(rows) if row.dim() != 1]
        batch = torch.empty((len(rows), *pixels.shape[1:]), dtype=torch.uint8, device=self._device)
        batch[jpegs] = pixels
        batch[others] = devices.stack_on(self._device, [rows[at] for at in others])
        return batch

    @torch.inference_mode()
    def forward(self, batch: torch.Tensor) -> torch.Tensor | devices.AsyncHostCopy:
        if batch.dtype == torch.uint8:
            batch = batch.float().div_(255).sub_(self._mean).div_(self._std)  # (rows, 3, H, W) float32
        return devices.copy_back(self._served(batch))  # (rows, classes) float32

    def separate(self, outputs: torch.Tensor | devices.AsyncHostCopy, rows: int) -> list[np.ndarray]:
        """Return the logits of each row, (classes,) float32."""
        return list(outputs.wait() if isinstance(outputs, devices.AsyncHostCopy) else to_numpy(outputs))

    def encode(self, rows: Sequence[np.ndarray], options: dict[str, Any]) -> Result:
        top_k = options.get("top_k") or 0
        if not isinstance(top_k, int) or top_k < 0:
            raise InvalidInput(f"expected top_k to be a whole number from 0, got {top_k!r:.50}")
        if top_k:
            return Result(classes=[self._top(logits, top_k) for logits in rows])
        return Result(outputs={"logits": from_numpy(np.stack(rows))})

    def _top(self, logits: np.ndarray, count: int) -> list[tuple[int, str, float]]:
        with np.errstate(invalid="ignore"):  # non-finite logits make all probabilities NaN, which the client gets
            weights = np.exp(logits - logits.max())  # (classes,) float32
            probabilities = weights / weights.sum()
        best = np.argsort(-logits, kind="stable")[:count]
        return [(int(index), self._labels[index], float(probabilities[index])) for index in best]
