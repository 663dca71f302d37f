"""Reference for photos: decode and forward in one process and one thread, without a server.

    python -m loadtest.servers.bare PHOTO SECONDS SIZE,SIZE,…   → {"SIZE": images per second, …}

ResNet18 in float32 and channels_last, with the preprocessing of torchvision's preset: resize to 256, crop 224.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
EDGE = (256 - 224) // 2


def decode(photo: bytes) -> torch.Tensor:
    image = Image.open(BytesIO(photo)).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    pixels = np.array(image.crop((EDGE, EDGE, EDGE + 224, EDGE + 224)))
    return torch.from_numpy(pixels).permute(2, 0, 1)  # (3, 224, 224) uint8


@torch.inference_mode()
def images_per_s(network: Callable[[torch.Tensor], torch.Tensor], photo: bytes, size: int, seconds: float) -> float:
    """Decode the images of a batch of `size`, run one forward, repeat. The first batch is the warm-up."""
    images, started = -size, time.perf_counter()
    while images < 0 or time.perf_counter() < started + seconds:
        batch = torch.stack([decode(photo) for _ in range(size)]).float().div_(255).sub_(MEAN).div_(STD)
        network(batch.contiguous(memory_format=torch.channels_last))  # (size, 1000) float32
        if images < 0:
            started = time.perf_counter()
        images += size
    return images / (time.perf_counter() - started)


def main() -> None:
    photo, seconds = Path(sys.argv[1]).read_bytes(), float(sys.argv[2])
    torch.set_num_threads(1)
    network = torchvision.models.resnet18(weights=None).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # unknown to torch's annotations
    sizes = [int(size) for size in sys.argv[3].split(",")]
    print(json.dumps({str(size): round(images_per_s(network, photo, size, seconds), 2) for size in sizes}))


if __name__ == "__main__":
    main()
