"""Find the model that MODEL_PATH names.

A kind of model is imported only when it is used: a worker that serves `simulated` never imports torch.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from smartbatch.shared.errors import ModelLoadError
from smartbatch.worker.core.model import LoadContext, Model

__all__ = ["LoadContext", "Model", "listing", "resolve"]

EFFICIENTNET = "efficientnet_lite0"
SIMULATED = "simulated"
MINILM = "minilm"
HUGGING_FACE = "hf"

WEIGHT_FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
CHOICES = (
    "MODEL_PATH is a torchvision classification model (resnet18), efficientnet_lite0, minilm, hf:DIR, "
    "simulated:base_ms=4,row_ms=0.2, file.py:Class, module:Class, or a .pt2 file"
)


def resolve(model_path: str) -> Model:
    """Return the model that MODEL_PATH names, not loaded yet. Raises ModelLoadError with one line."""
    head, colon, rest = model_path.partition(":")
    if head == SIMULATED:
        from smartbatch.worker.models.simulated import Simulated

        return Simulated(rest)
    if model_path == EFFICIENTNET:
        from smartbatch.worker.models.efficientnet import EfficientNetLite0

        return EfficientNetLite0()
    if model_path.endswith(".pt2"):
        from smartbatch.worker.models.exported import Exported

        return Exported(model_path)
    if model_path == MINILM:
        from smartbatch.worker.models.text.model import TextModel

        return TextModel.minilm()
    if head == HUGGING_FACE and colon:
        from smartbatch.worker.models.text.model import TextModel

        return TextModel.of(rest)
    if colon:
        from smartbatch.worker.models.user import UserModel

        return UserModel(model_path)
    return _from_torchvision(model_path)


def _from_torchvision(name: str) -> Model:
    if name.endswith(".py"):
        raise ModelLoadError(f"MODEL_PATH={name}: which class of the file? Name it: {name}:Class")
    if name.endswith(WEIGHT_FILES):
        raise ModelLoadError(
            f"MODEL_PATH={name}: such a file has weights (or a TorchScript program), but not the model's code. Give it "
            f"as weights (--model my_model.py:Net --weights {name}), or save the model with torch.export (net.pt2)"
        )
    from smartbatch.worker.models.vision import VisionClassifier, names

    known = names()
    if name in known:
        return VisionClassifier(name)
    if Path(f"{name}.py").is_file():
        raise ModelLoadError(f"MODEL_PATH={name}: which class of {name}.py? Name it: {name}.py:Class")
    near = difflib.get_close_matches(name, [*known, EFFICIENTNET, MINILM, SIMULATED], n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ";"
    raise ModelLoadError(f"unknown model {name!r}{hint} {CHOICES}")


def listing() -> list[tuple[str, str]]:
    """Return (model_path, description) of every model that has a name. Loads no weights."""
    from smartbatch.worker.models.vision import names

    return [
        (EFFICIENTNET, "image classifier, ImageNet weights from a pip package: no download"),
        (MINILM, "text embeddings (all-MiniLM-L6-v2), weights from a pip package: no download"),
        ("hf:DIR", "embedding model, reranker or text classifier in Hugging Face's layout; hf:org/name fetches it"),
        (f"{SIMULATED}:base_ms=4,row_ms=0.2", "accelerator stand-in that sleeps base + rows × row"),
        ("file.py:Class", "your own class, in a file"),
        ("module:Class", "your own class, in an importable module"),
        ("file.pt2", "a program saved by torch.export"),
        *((name, "torchvision image classifier") for name in names()),
    ]
