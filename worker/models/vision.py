"""Torchvision's classification models by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.transforms import InterpolationMode

from smartbatch.shared.errors import ModelLoadError
from smartbatch.worker.core.model import LoadContext
from smartbatch.worker.core.user_traceback import one_line
from smartbatch.worker.core.weights import CHOICES, StateDict, fill, read_state_dict
from smartbatch.worker.images.decode import Preset, Resample
from smartbatch.worker.models.classifier import Classifier

_RESAMPLE = {
    InterpolationMode.NEAREST: Resample.NEAREST,
    InterpolationMode.BILINEAR: Resample.BILINEAR,
    InterpolationMode.BICUBIC: Resample.BICUBIC,
}

# Initializing these two would take half a minute and print a warning. Their published weights need transformed inputs.
_INCEPTION = {"init_weights": False, "transform_input": True}
_ARGUMENTS: dict[str, dict[str, Any]] = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}

RANDOM_SEED = 0  # all workers of a model must have the same random weights


def names() -> list[str]:
    """Return the names of torchvision's classification models."""
    return torchvision.models.list_models(module=torchvision.models)


class VisionClassifier(Classifier):
    """A torchvision network with its published weights, those of a file, or random ones.

    The preset is always that of the published weights: a file usually holds a finetuned copy of them.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._published = torchvision.models.get_model_weights(name)["DEFAULT"]
        super().__init__(_preset(self._published.transforms()))

    def build(self, context: LoadContext) -> tuple[nn.Module, Sequence[str]]:
        labels = self._published.meta["categories"]
        if context.weights == "random":
            return self._with_random_weights(), labels
        if context.weights == "default":
            context.progress(f"downloading the weights of {self._name}")
            return self._with_published_weights(), labels
        context.progress(f"reading {context.weights}")
        state = read_state_dict(context.weights)
        network = self._for_classes_of(state)
        fill(network, state, context.weights, self._name)
        return network, labels

    def _with_random_weights(self, **arguments: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            return torchvision.models.get_model(self._name, weights=None, **_ARGUMENTS.get(self._name, {}), **arguments)

    def _with_published_weights(self) -> nn.Module:
        try:
            return torchvision.models.get_model(self._name, weights=self._published, progress=False)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash raises RuntimeError
            raise ModelLoadError(
                f"the weights of {self._name} can't be downloaded from {self._published.url} "
                f"({one_line(error)}); {CHOICES}"
            ) from None

    def _for_classes_of(self, state: StateDict) -> nn.Module:
        """Build the network with as many classes as the file's last tensor, the classifier's, has."""
        network = self._with_random_weights()
        name, last = list(network.state_dict().items())[-1]
        if name in state and state[name].shape[:1] != last.shape[:1]:
            return self._with_random_weights(num_classes=state[name].shape[0])
        return network


def _preset(transforms: Callable[..., Any]) -> Preset:
    published: Any = transforms
    return Preset(
        resize=published.resize_size[0],
        crop=published.crop_size[0],
        mean=tuple(published.mean),
        std=tuple(published.std),
        resample=_RESAMPLE[published.interpolation],
    )
