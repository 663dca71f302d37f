"""The worker's decode_images: a row of the right shape, or InvalidInput."""

from __future__ import annotations

import io
import warnings
import zlib

import numpy as np
import torch

from tests.fuzz.harness import fuzz, guided_by

with guided_by(
    "smartbatch.worker.images.header", "smartbatch.worker.images.decode", "PIL.PngImagePlugin", "PIL.JpegImagePlugin"
):
    from smartbatch.worker.images.decode import Preset, Resample, decode_images
from PIL import Image

from smartbatch.shared.errors import InvalidInput

PRESETS = (Preset(16, 12), Preset(16, 16, resample=Resample.BICUBIC, squash=True))
MAX_PIXELS = 4_000_000

torch.set_num_threads(1)
warnings.simplefilter("ignore")


def seeds() -> list[bytes]:
    photo = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    rgb = Image.fromarray(photo)
    images = {
        "PNG": [rgb, rgb.convert("RGBA"), rgb.convert("LA"), rgb.quantize(8), rgb.convert("1"), rgb.convert("L")],
        "JPEG": [rgb, rgb.convert("CMYK"), rgb.convert("L")],
        "WEBP": [rgb, rgb.convert("RGBA")],
    }
    images["PNG"].append(Image.fromarray(photo[..., 0].astype(np.uint16) * 256))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = [_saved(image, format, exif=exif) for format, each in images.items() for image in each]
    found.append(_saved(rgb, "JPEG", progressive=True))
    found.append(_saved(rgb, "WEBP", lossless=True))
    for format in ("PNG", "WEBP"):
        found.append(_saved(rgb, format, save_all=True, append_images=[rgb.rotate(90), rgb]))
    found.append(_saved(rgb.quantize(8), "PNG", transparency=bytes(8)))
    return found


def _saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def one(data: bytes) -> None:
    if data.startswith(b"\x89PNG") and data[-1] & 1:
        data = _with_right_checksums(data)
    for preset in PRESETS:
        try:
            [row] = decode_images([data], preset, MAX_PIXELS)
        except InvalidInput as error:
            assert str(error).startswith("expected "), error
            return
        assert row.shape == (3, preset.crop, preset.crop)
        assert row.dtype == torch.uint8


def _with_right_checksums(data: bytes) -> bytes:
    """Correct the checksums, without which PIL rejects nearly every mutation at once."""
    whole, at = bytearray(data), 8
    while len(data) - at >= 12:
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        whole[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(whole)


if __name__ == "__main__":
    fuzz(one, seeds())
