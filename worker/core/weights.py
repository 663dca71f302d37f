"""Read state dicts from files, without running pickled code, and remove the wrappers of common training code."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn

from smartbatch.shared.errors import ModelLoadError
from smartbatch.worker.core.user_traceback import one_line

CHOICES = (
    "choose MODEL_WEIGHTS=random, the path of a weight file, "
    "or MODEL_PATH=efficientnet_lite0, whose weights need no download"
)

StateDict = dict[str, torch.Tensor]


def read_state_dict(path: str) -> StateDict:
    """Read a .pt, .pth or .safetensors file. Raises ModelLoadError."""
    if not Path(path).is_file():
        raise ModelLoadError(f"MODEL_WEIGHTS: there is no file {path}; {CHOICES}")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise ModelLoadError(f"MODEL_WEIGHTS: reading {path} requires `pip install safetensors`") from None
    except pickle.UnpicklingError:
        raise ModelLoadError(
            f"MODEL_WEIGHTS: {path} is not a plain state dict; save one with torch.save(model.state_dict(), path)"
        ) from None
    except Exception as error:  # damaged files make torch and safetensors raise anything
        raise ModelLoadError(f"MODEL_WEIGHTS: {path} can't be read ({one_line(error)})") from None
    return _unwrap(state, path)


def _unwrap(state: object, path: str) -> StateDict:
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ModelLoadError(f"MODEL_WEIGHTS: {path} holds no state dict (names with tensors)")
    return {name.removeprefix("module."): value for name, value in state.items()}  # DataParallel's prefix


def fill(network: nn.Module, state: StateDict, path: str, model: str) -> None:
    """Load a state dict into a network. Raises ModelLoadError if they don't match."""
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelLoadError(
            f"MODEL_WEIGHTS: {path} doesn't fit {model} ({one_line(error)[:200]}…); {CHOICES}"
        ) from None
