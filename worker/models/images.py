"""Client bytes to pixels: the one place where an image is parsed.

Only PIL's JPEG, PNG and WebP readers ever see client bytes, the size is checked from the header before a pixel is
decoded, and no global state of PIL is touched, so any number of threads may decode at once.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from shared.errors import InvalidInput

Resample = Image.Resampling

# Built directly, not by Image.open: that one warns about large images from a process-wide limit, and a warning
# can't be silenced in one thread alone. `max_pixels` below takes its place.
_READERS = {b"\xff\xd8\xff": JpegImageFile, b"\x89PNG\r\n\x1a\n": PngImageFile, b"RIFF": WebPImageFile}

_OTHERS = {b"GIF8": "a GIF", b"BM": "a BMP", b"II*\0": "a TIFF", b"MM\0*": "a TIFF", b"%PDF": "a PDF"}

# what the three readers raise on bytes that don't hold together
_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

MAX_ASPECT = 16  # a longer strip loses its ends first: 10000x1 would otherwise be resized to 2560000x256


class Preset(msgspec.Struct, frozen=True):
    """How pixels become a model's input: resize, centre crop, then (x / 255 - mean) / std on the device.

    `resize` is the new length of the shorter side; with `squash` both sides become that long.
    """

    resize: int
    crop: int
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resample: Resample = Resample.BILINEAR
    squash: bool = False


def decode_images(images: Sequence[bytes], preset: Preset, max_pixels: int) -> list[torch.Tensor]:
    """Return (3, crop, crop) uint8 of each. Raises InvalidInput: not an image, broken, or more than `max_pixels`
    in all of them together (by their headers, before any is decoded)."""
    opened = [_open(data) for data in images]
    total = sum(image.width * image.height for image in opened)
    if total > max_pixels:
        came = f"{opened[0].width}x{opened[0].height}" if len(opened) == 1 else f"{len(opened)} images with {total}"
        raise InvalidInput(f"expected images of at most {max_pixels} pixels, got {came}")
    return [_decode(image, len(data), preset) for image, data in zip(opened, images, strict=True)]


def decode_image(data: bytes, preset: Preset, max_pixels: int) -> torch.Tensor:
    """Return (3, crop, crop) uint8: decode_images of one."""
    return decode_images([data], preset, max_pixels)[0]


def _decode(image: ImageFile, size_bytes: int, preset: Preset) -> torch.Tensor:
    width, height = image.size
    name = image.format
    try:
        if name == "JPEG":
            # the decoder scales by 1/2, 1/4 or 1/8 for free; twice the size wanted leaves the resize its say
            image.draft("RGB", (2 * preset.resize, 2 * preset.resize))
        image.load()
        rgb = _to_rgb(_upright(image))
    except _BROKEN as error:
        raise InvalidInput(
            f"expected a whole image, got a broken {name} of {width}x{height} in {size_bytes} bytes ({error!s:.100})"
        ) from None
    pixels = np.array(_fit(rgb, preset))  # (crop, crop, 3) uint8
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()  # (3, crop, crop) uint8


def _open(data: bytes) -> ImageFile:
    """Read the header alone."""
    reader = next((reader for magic, reader in _READERS.items() if data.startswith(magic)), None)
    if reader is None:
        raise InvalidInput(f"expected a JPEG, PNG or WebP image, got {_describe(data)}")
    try:
        return reader(io.BytesIO(data))
    except _BROKEN as error:
        raise InvalidInput(
            f"expected a JPEG, PNG or WebP image, got {len(data)} bytes with a broken header ({error!s:.100})"
        ) from None


def _describe(data: bytes) -> str:
    if not data:
        return "no bytes"
    other = next((name for magic, name in _OTHERS.items() if data.startswith(magic)), None)
    return f"{other} of {len(data)} bytes" if other else f"{len(data)} bytes starting with {data[:8].hex(' ')}"


def _upright(image: ImageFile) -> Image.Image:
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF is an extra: damage to it (PIL raises nearly anything) is no reason to refuse pixels
        return image
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB as a viewer shows it; what is transparent becomes white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit gray: PIL would clip it to 255, where the high byte is meant
        gray = (np.asarray(image).astype(np.int32) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _fit(image: Image.Image, preset: Preset) -> Image.Image:
    """Resize and crop to the pixel as torchvision's eval presets do with PIL images."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if preset.squash:
        size = (preset.resize, preset.resize)
    else:
        if long > MAX_ASPECT * short:
            image = _centre(image, min(width, MAX_ASPECT * short), min(height, MAX_ASPECT * short))
            long = MAX_ASPECT * short
        stretched = int(preset.resize * long / short)
        size = (preset.resize, stretched) if width <= height else (stretched, preset.resize)
    if image.size != size:
        image = image.resize(size, preset.resample)
    return _centre(image, preset.crop, preset.crop)


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
