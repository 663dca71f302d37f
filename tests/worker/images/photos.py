"""Photos that come with packages, and ways to encode them."""

import io
from typing import Any

import numpy as np
import skimage.data
from PIL import Image

NAMES = ("chelsea", "coffee", "astronaut", "rocket", "hubble_deep_field")


def pixels(name: str) -> np.ndarray:
    return getattr(skimage.data, name)()


def encoded(array: np.ndarray | Image.Image, format: str = "PNG", **options: Any) -> bytes:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
