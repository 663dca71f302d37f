"""Decode the JPEGs of a batch on the device (nvJPEG on CUDA), if that is correct and faster.

The device decodes only plain JPEGs of moderate size. The CPU decodes all other images (decode.py), and every JPEG if
the trial at load fails. A row that the device will decode is a tensor of the file's bytes.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image
from torchvision.io import (
    ImageReadMode,
    decode_jpeg,
)  # deprecated from 0.29 on in favour of TorchCodec, another package

from smartbatch.worker.core.device_errors import is_out_of_memory
from smartbatch.worker.core.user_traceback import one_line
from smartbatch.worker.images.decode import MAX_ASPECT, Preset, Resample, decode_image
from smartbatch.worker.images.header import Header

log = logging.getLogger(__name__)

MAX_PIXELS = 4_000_000  # for larger ones a CPU, which decodes at an eighth of the size, is faster; 32 need 400 MB
TOLERANCE = 3.0  # of 255: mean deviation of the pixels in the trial
_MODES = {Resample.BILINEAR: "bilinear", Resample.BICUBIC: "bicubic"}
_TRIAL_SIZE = (640, 480)
_ROUNDS = 3


class DeviceJpegs:
    """Any thread may call `supports` and `row`; only the device thread calls the others."""

    def __init__(self, device: torch.device, preset: Preset) -> None:
        self._device = device
        self._preset = preset

    def supports(self, header: Header) -> bool:
        short, long = sorted((header.width, header.height))
        return header.plain and header.orientation == 1 and long * short <= MAX_PIXELS and long <= MAX_ASPECT * short

    def row(self, header: Header) -> torch.Tensor:
        """Return (bytes,) uint8."""
        return torch.frombuffer(bytearray(header.data), dtype=torch.uint8)

    def pixels(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return (rows, 3, crop, crop) uint8 on the device. Raises InvalidInput if one is broken.

        If the device rejects an image, it is found by halving, and the CPU decodes it or reports what is wrong.
        """
        try:
            return self.on_device(rows)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise  # the engine halves the batch
            if len(rows) == 1:
                log.debug("the device can't decode a JPEG: %s", one_line(error))
        if len(rows) > 1:
            half = len(rows) // 2
            return torch.cat([self.pixels(rows[:half]), self.pixels(rows[half:])])
        return decode_image(rows[0].numpy().tobytes(), self._preset, MAX_PIXELS)[None].to(self._device)

    def on_device(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """As `pixels`, but raise RuntimeError if the device rejects an image."""
        decoded = decode_jpeg(list(rows), ImageReadMode.RGB, device=self._device)
        return torch.stack([self._fit(image) for image in decoded])

    def _fit(self, image: torch.Tensor) -> torch.Tensor:
        """Resize and crop (3, H, W) uint8 to (3, crop, crop), as decode.py does."""
        preset, (height, width) = self._preset, image.shape[1:]
        size = [preset.resize, preset.resize]
        if not preset.squash:
            stretched = int(preset.resize * max(height, width) / min(height, width))
            size = [preset.resize, stretched] if height <= width else [stretched, preset.resize]
        small = functional.interpolate(image[None].float(), size, mode=_MODES[preset.resample], antialias=True)[0]
        top, left = (round((side - preset.crop) / 2) for side in size)
        cropped = small[:, top : top + preset.crop, left : left + preset.crop]  # (3, crop, crop) float32
        return cropped.round_().clamp_(0, 255).to(torch.uint8)


def try_device(device: torch.device, preset: Preset, rows: int, cpu_threads: int) -> DeviceJpegs | None:
    """Return a decoder for the device if its pixels match those of the CPU and it is faster than `cpu_threads` threads.

    Logs the choice and its reason.
    """
    if preset.resample not in _MODES:
        return None
    jpegs = DeviceJpegs(device, preset)
    try:
        photo = _photo()
        expected = decode_image(photo, preset, MAX_PIXELS)
        batch = [torch.frombuffer(bytearray(photo), dtype=torch.uint8)] * rows
        decoded = jpegs.on_device(batch)[0].cpu()  # (3, crop, crop) uint8
        error = float((decoded.float() - expected.float()).abs().mean())
        if error > TOLERANCE:
            raise ValueError(f"its pixels deviate by {error:.1f} of 255 in the mean")
        on_device_s = _shortest(lambda: jpegs.on_device(batch).cpu()) / rows
        on_cpu_s = _shortest(lambda: decode_image(photo, preset, MAX_PIXELS)) / cpu_threads
    except Exception as failure:  # the device's library may raise anything
        log.warning("OPTIMIZE: the CPU decodes JPEGs: %s", one_line(failure))
        return None
    log.info(
        "OPTIMIZE: %s decodes %.0f JPEGs of %dx%d a second, %d CPU threads decode %.0f; pixels deviate by %.2f of 255",
        *(device, 1 / on_device_s, *_TRIAL_SIZE, cpu_threads, 1 / on_cpu_s, error),
    )
    return jpegs if on_device_s < on_cpu_s else None


def _photo() -> bytes:
    """Return a JPEG with the features of a photo: smooth parts, edges and grain."""
    width, height = _TRIAL_SIZE
    y, x = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    bars = 40 * ((x // 40 + y // 60) % 2)
    smooth = np.stack([128 + 80 * np.sin(x / 90), 128 + 80 * np.cos(y / 70), 96 + 60 * np.sin((x + y) / 130)], axis=-1)
    out = io.BytesIO()
    Image.fromarray((smooth + bars[..., None] + grain).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def _shortest(work: Callable[[], object]) -> float:
    """Return the shortest of a few measurements, in seconds."""
    shortest = float("inf")
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        shortest = min(shortest, time.perf_counter() - started)
    return shortest
