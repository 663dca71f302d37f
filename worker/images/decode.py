"""Decode images into pixels. No other module decodes client bytes on the CPU.

Only PIL's JPEG, PNG and WebP readers see client bytes, and only those bytes that the pixels need (header.py). Size and
cost are checked before a pixel is decoded. No global state of PIL is changed, so any number of threads may decode at
once, within one memory budget.
"""

from __future__ import annotations

import io
import math
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import numpy as np
import torch
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from smartbatch.shared.errors import BodyTooLarge, InvalidInput
from smartbatch.worker.images.header import MAX_SIDE, BrokenImage, Header, read_header

Resample = Image.Resampling

# Constructed directly: Image.open warns about large images by a process-wide limit, and a warning can't be silenced in
# one thread only. `max_pixels` below replaces that limit.
_READERS = {"JPEG": JpegImageFile, "PNG": PngImageFile, "WEBP": WebPImageFile}

_OTHERS = {b"GIF8": "a GIF", b"BM": "a BMP", b"II*\0": "a TIFF", b"MM\0*": "a TIFF", b"%PDF": "a PDF"}

# raised by the three readers for broken files
_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, MemoryError, AttributeError, SystemError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

MAX_ASPECT = 16  # a longer strip is cropped first: 10000x1 would otherwise be resized to 2560000x256

# Memory of all decode threads together for large images, per pixel of MAX_IMAGE_PIXELS (600 MB by default). A PNG takes
# 4 bytes a pixel, a progressive JPEG 7, a WebP 16 or 24: the largest WebP has half of MAX_IMAGE_PIXELS.
BUDGET_BYTES_PER_PIXEL = 12
SMALL_BYTES = 16 * 1024 * 1024  # smaller images never wait for the budget
BAND_PIXELS = 2_000_000  # converted to RGB at a time

Deferred = Callable[[Header], torch.Tensor | None]


class Preset(msgspec.Struct, frozen=True):
    """How an image becomes a model's input: resize, center crop, then (x / 255 - mean) / std on the device.

    `resize` is the new length of the shorter side; with `squash` it is the length of both sides.
    """

    resize: int
    crop: int
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resample: Resample = Resample.BILINEAR
    squash: bool = False


def decode_images(
    images: Sequence[bytes], preset: Preset, max_pixels: int, defer: Deferred = lambda header: None
) -> list[torch.Tensor]:
    """Return (3, crop, crop) uint8 for each image, or the result of `defer` for one that is decoded later.

    Raises InvalidInput: not an image, broken, or too large; or BodyTooLarge: more than `max_pixels` in all of them
    (judged by the headers, before any image is decoded).
    """
    headers = [_read_header(data) for data in images]
    _check_sizes(headers, max_pixels)
    rows = []
    for header, data in zip(headers, images, strict=True):
        if (deferred := defer(header)) is not None:
            rows.append(deferred)
            continue
        with _budget.reserved(header.decode_bytes, max_pixels * BUDGET_BYTES_PER_PIXEL):
            rows.append(_decode(header, len(data), preset))
    return rows


def decode_image(data: bytes, preset: Preset, max_pixels: int) -> torch.Tensor:
    """Return (3, crop, crop) uint8: decode_images for one image."""
    return decode_images([data], preset, max_pixels)[0]


def _read_header(data: bytes) -> Header:
    try:
        header = read_header(data)
    except BrokenImage as error:
        raise InvalidInput(
            f"expected a JPEG, PNG or WebP image, got {len(data)} bytes with a broken header ({error})"
        ) from None
    if header is None:
        raise InvalidInput(f"expected a JPEG, PNG or WebP image, got {_describe(data)}")
    return header


def _check_sizes(headers: Sequence[Header], max_pixels: int) -> None:
    for image in headers:
        if max(image.width, image.height) > MAX_SIDE:
            raise InvalidInput(f"expected images of at most {MAX_SIDE} pixels a side, got {image.width}x{image.height}")
    total = sum(image.width * image.height for image in headers)
    if total > max_pixels:
        expected, first = f"expected images of at most {max_pixels} pixels", headers[0]
        if len(headers) > 1:  # no fault of any one of them
            raise BodyTooLarge(f"{expected} together, got {len(headers)} images with {total}")
        raise InvalidInput(f"{expected}, got {first.width}x{first.height}")
    for image in headers:
        if image.decode_bytes > max(SMALL_BYTES, max_pixels * BUDGET_BYTES_PER_PIXEL):
            raise InvalidInput(
                f"expected an image that decodes within {max_pixels * BUDGET_BYTES_PER_PIXEL // 1_000_000} MB, got a "
                f"{image.format} of {image.width}x{image.height}, which needs {image.decode_bytes // 1_000_000}"
            )


def _describe(data: bytes) -> str:
    if not data:
        return "no bytes"
    other = next((name for magic, name in _OTHERS.items() if data.startswith(magic)), None)
    return f"{other} of {len(data)} bytes" if other else f"{len(data)} bytes starting with {data[:8].hex(' ')}"


class _MemoryBudget:
    """The memory for decoding large images, shared by all decode threads."""

    def __init__(self) -> None:
        self._used = 0
        self._freed = threading.Condition()
        self._first_in_line = threading.Lock()  # held by the longest-waiting thread, so that none starves

    @contextmanager
    def reserved(self, size: int, limit: int) -> Iterator[None]:
        """Wait until `size` bytes fit into `limit`; release them afterwards."""
        if size < SMALL_BYTES:
            yield
            return
        with self._first_in_line, self._freed:
            self._freed.wait_for(lambda: self._used + size <= limit)
            self._used += size
        try:
            yield
        finally:
            with self._freed:
                self._used -= size
                self._freed.notify_all()


_budget = _MemoryBudget()


def _decode(header: Header, size_bytes: int, preset: Preset) -> torch.Tensor:
    try:
        image: ImageFile = _READERS[header.format](io.BytesIO(header.data))
        if image.size != (header.width, header.height):
            raise ValueError(f"it decodes as {image.width}x{image.height}")
        if header.format == "JPEG":
            # the decoder scales by 1/2, 1/4 or 1/8 for free; twice the target size keeps the resize accurate
            image.draft("RGB", (2 * preset.resize, 2 * preset.resize))
        image.load()
        pixels = np.array(_fit(image, header.orientation, preset))  # (crop, crop, 3) uint8
    except _BROKEN as error:
        raise InvalidInput(
            f"expected a whole image, got a broken {header.format} of {header.width}x{header.height} "
            f"in {size_bytes} bytes ({error!s:.100})"
        ) from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()  # (3, crop, crop) uint8


def _fit(image: Image.Image, orientation: int, preset: Preset) -> Image.Image:
    """Resize and crop to the pixel as torchvision's eval presets do with PIL images.

    The image is turned upright only after the resize, which is cheaper; the shorter side stays the shorter one.
    """
    width, height = image.size
    short = min(width, height)
    # The box that is resized is the whole image, except for a long strip.
    box_width, box_height = (width, height) if preset.squash else (min(side, MAX_ASPECT * short) for side in image.size)
    left, top = round((width - box_width) / 2), round((height - box_height) / 2)
    size = (preset.resize, preset.resize)
    if not preset.squash:
        stretched = int(preset.resize * max(box_width, box_height) / short)
        size = (preset.resize, stretched) if width <= height else (stretched, preset.resize)
    small = _resize(image, (left, top, left + box_width, top + box_height), size, preset.resample)
    method = _UPRIGHT.get(orientation)
    return _center_crop(small if method is None else small.transpose(method), preset.crop, preset.crop)


def _resize(image: Image.Image, box: tuple[int, int, int, int], size: tuple[int, int], how: Resample) -> Image.Image:
    """Return the box as RGB of the given size, with the same pixels as converting the whole box first.

    Other modes are converted in bands of rows, each with as many rows beyond its edges as the filter reads: a
    conversion makes several copies, gigabytes for a large image.
    """
    left, top, right, bottom = box
    if box != (0, 0, *image.size):
        image = image.crop(box)
    width, height = right - left, bottom - top
    if (image.mode == "RGB" or image.mode == "L") and "transparency" not in image.info:
        return (image if image.size == size else image.resize(size, how)).convert("RGB")
    bands = min(size[1], math.ceil(width * height / BAND_PIXELS))
    if bands == 1:
        rgb = _to_rgb(image)
        return rgb if rgb.size == size else rgb.resize(size, how)
    out = Image.new("RGB", size)
    scale = height / size[1]
    margin = math.ceil(3 * max(1.0, scale)) + 1  # no filter reads further than three of its output pixels
    for band in range(bands):
        first, last = band * size[1] // bands, (band + 1) * size[1] // bands
        start, end = first * scale, min(float(height), last * scale)
        above, below = max(0, math.floor(start) - margin), min(height, math.ceil(end) + margin)
        part = _to_rgb(image.crop((0, above, width, below)))
        out.paste(part.resize((size[0], last - first), how, box=(0, start - above, width, end - above)), (0, first))
    return out


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB as a viewer shows it; transparent pixels become white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit gray: PIL would clip to 255, the high byte is right
        gray = (np.asarray(image).astype(np.int32) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _center_crop(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
