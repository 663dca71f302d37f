"""Two inputs: a photo and three numbers in, one number out.

    smartbatch up --model examples/photo_and_numbers.py:PhotoAndNumbers

then, from the folder of this repository,

    curl -F photo=@examples/cat.jpg -F numbers='[1, 2, 3]' localhost:8000/predict

A module whose `forward` has an argument for each input gets them as these. Its weights are random: train it, save its
state dict, and serve that with `--weights`.
"""

import io

import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import functional

from smartbatch import InputSpec, InvalidInput, to_torch

SIDE = 64  # pixels


class PhotoAndNumbers(nn.Module):
    input = {
        "photo": InputSpec(("image",)),
        "numbers": InputSpec(("tensor",), "float32", (3,)),
    }

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8 + 3, 1)

    def decode(self, inputs):
        """One dict per row. Each of `inputs` is what `payload` would be for a model with this input alone."""
        photos = [self._pixels(data) for data in inputs["photo"].content]
        numbers = to_torch(inputs["numbers"].content).float()
        return [{"photo": photo, "numbers": row} for photo, row in zip(photos, numbers, strict=True)]

    def example(self):
        return {"photo": torch.rand(3, SIDE, SIDE), "numbers": torch.rand(3)}

    def forward(self, photo, numbers):  # (rows, 3, 64, 64), (rows, 3)
        return self.head(torch.cat([self.features(photo), numbers], 1))  # (rows, 1)

    def _pixels(self, data):
        try:
            image = Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE))
        except OSError as error:
            raise InvalidInput(f"the photo can't be decoded: {error}") from None
        return functional.to_dtype(functional.pil_to_tensor(image), scale=True)  # (3, 64, 64) float32 of 0 to 1
