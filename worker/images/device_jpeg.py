"""JPEGs that the device decodes itself, all of a batch at once (nvJPEG on CUDA); only where that is right and faster.

Plain ones alone, of moderate size: the others, and all where the trial at load failed, are decoded by the CPU
(`images.py`). A row that waits for its decoding is a tensor of the file's bytes.
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
from torchvision.io import ImageReadMode, decode_jpeg  # from 0.29 on it points to TorchCodec, a package more

from smartbatch.worker.core.device_errors import is_out_of_memory
from smartbatch.worker.core.weights import one_line
from smartbatch.worker.images.decode import MAX_ASPECT, Preset, Resample, decode_image
from smartbatch.worker.images.header import Header

log = logging.getLogger(__name__)

MAX_PIXELS = 4_000_000  # beyond, a CPU is quicker: it decodes at an eighth of the size; and 32 of them take 400 MB
TOLERANCE = 3.0  # of 255: how far the pixels of the trial may be off, in the mean
_MODES = {Resample.BILINEAR: "bilinear", Resample.BICUBIC: "bicubic"}
_TRIAL_SIZE = (640, 480)
_ROUNDS = 3


class DeviceJpegs:
    """`takes` and `row` are for any thread, the others for the device thread."""

    def __init__(self, device: torch.device, preset: Preset) -> None:
        self._device = device
        self._preset = preset

    def takes(self, header: Header) -> bool:
        short, long = sorted((header.width, header.height))
        return header.plain and header.orientation == 1 and long * short <= MAX_PIXELS and long <= MAX_ASPECT * short

    def row(self, header: Header) -> torch.Tensor:
        """Return (bytes,) uint8."""
        return torch.frombuffer(bytearray(header.data), dtype=torch.uint8)

    def pixels(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return (rows, 3, crop, crop) uint8 on the device. Raises InvalidInput if one is broken.

        One that the device refuses is found by halving, and decoded here by the CPU, which says so if it is broken.
        """
        try:
            return self.on_device(rows)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise  # the engine halves the batch
            if len(rows) == 1:
                log.debug("the device refused a JPEG: %s", one_line(error))
        if len(rows) > 1:
            half = len(rows) // 2
            return torch.cat([self.pixels(rows[:half]), self.pixels(rows[half:])])
        return decode_image(rows[0].numpy().tobytes(), self._preset, MAX_PIXELS)[None].to(self._device)

    def on_device(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """As `pixels`, by the device alone. Raises RuntimeError if it refuses one."""
        decoded = decode_jpeg(list(rows), ImageReadMode.RGB, device=self._device)
        return torch.stack([self._fit(image) for image in decoded])

    def _fit(self, image: torch.Tensor) -> torch.Tensor:
        """Resize and crop one, (3, H, W) uint8, as `images.py` does."""
        preset, (height, width) = self._preset, image.shape[1:]
        size = [preset.resize, preset.resize]
        if not preset.squash:
            stretched = int(preset.resize * max(height, width) / min(height, width))
            size = [preset.resize, stretched] if height <= width else [stretched, preset.resize]
        small = functional.interpolate(image[None].float(), size, mode=_MODES[preset.resample], antialias=True)[0]
        top, left = (round((side - preset.crop) / 2) for side in size)
        cut = small[:, top : top + preset.crop, left : left + preset.crop]
        return cut.round_().clamp_(0, 255).to(torch.uint8)


def on_trial(device: torch.device, preset: Preset, rows: int, cpu_threads: int) -> DeviceJpegs | None:
    """Return what decodes on the device, if its pixels are those of a CPU, and more a second than of `cpu_threads`.

    Logs the choice and why.
    """
    if preset.resample not in _MODES:
        return None
    jpegs = DeviceJpegs(device, preset)
    try:
        photo = _photo()
        expected = decode_image(photo, preset, MAX_PIXELS)
        batch = [torch.frombuffer(bytearray(photo), dtype=torch.uint8)] * rows
        came = jpegs.on_device(batch)[0].cpu()
        error = float((came.float() - expected.float()).abs().mean())
        if error > TOLERANCE:
            raise ValueError(f"its pixels are off by {error:.1f} of 255 in the mean")
        on_device_s = _least(lambda: jpegs.on_device(batch).cpu()) / rows
        on_cpu_s = _least(lambda: decode_image(photo, preset, MAX_PIXELS)) / cpu_threads
    except Exception as failure:  # a library of the device's may raise anything
        log.warning("OPTIMIZE: JPEGs are decoded on the CPU: %s", one_line(failure))
        return None
    log.info(
        "OPTIMIZE: %s decodes %.0f JPEGs of %dx%d a second, %d threads of the CPU %.0f; pixels differ by %.2f of 255",
        *(device, 1 / on_device_s, *_TRIAL_SIZE, cpu_threads, 1 / on_cpu_s, error),
    )
    return jpegs if on_device_s < on_cpu_s else None


def _photo() -> bytes:
    """A JPEG with what photos have: smooth parts, edges and grain."""
    width, height = _TRIAL_SIZE
    y, x = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    bars = 40 * ((x // 40 + y // 60) % 2)
    smooth = np.stack([128 + 80 * np.sin(x / 90), 128 + 80 * np.cos(y / 70), 96 + 60 * np.sin((x + y) / 130)], axis=-1)
    out = io.BytesIO()
    Image.fromarray((smooth + bars[..., None] + grain).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def _least(work: Callable[[], object]) -> float:
    """Seconds that it takes, the least of some rounds."""
    least = float("inf")
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - started)
    return least
