"""What follows the transformer of an embedding model: pooling, dense layers and normalization, as modules.json lists
them. The formulas are sentence-transformers'."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from smartbatch.worker.core.weights import read_state_dict
from smartbatch.worker.models.text.folder import Folder

# In the order in which several are concatenated.
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class Pooling(nn.Module):
    """(rows, length, hidden) float32 and lengths (rows,) to (rows, hidden × modes) float32. Padding is on the right."""

    def __init__(self, modes: tuple[str, ...]) -> None:
        super().__init__()
        self.modes = modes

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`mask` is (rows, length), 1 for tokens and 0 for padding."""
        return torch.cat([self._pool(mode, hidden, mask) for mode in self.modes], dim=1)

    @staticmethod
    def _pool(mode: str, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if mode == "cls":
            return hidden[:, 0]
        if mode == "lasttoken":
            return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
        weight = mask.unsqueeze(2).to(hidden.dtype)  # (rows, length, 1)
        if mode == "max":
            return hidden.masked_fill(weight == 0, -1e9).amax(1)
        if mode == "weightedmean":
            weight = weight * torch.arange(1, mask.shape[1] + 1, device=mask.device).view(1, -1, 1)
        total = (hidden * weight).sum(1)  # (rows, hidden)
        count = weight.sum(1).clamp(min=1e-9)
        return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)


class Dense(nn.Module):
    def __init__(self, folder: Folder, path: str) -> None:
        super().__init__()
        config = folder.read(f"{path}/config.json", {})
        if config.get("use_residual"):
            raise folder.error("has a Dense module with use_residual, which isn't supported")
        name = str(config.get("activation_function", "Identity"))
        activation = getattr(nn, name.rpartition(".")[2], None) if name.startswith("torch.nn.") else None
        if not (isinstance(activation, type) and issubclass(activation, nn.Module)):
            raise folder.error(f"has a Dense module with the activation {name:.60}, which isn't supported")
        self.activation = activation()
        self.linear = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
        files = [folder.path / path / name for name in ("model.safetensors", "pytorch_model.bin")]
        file = next((file for file in files if file.is_file()), files[0])
        self.load_state_dict(read_state_dict(str(file)))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.activation(self.linear(vectors))


class Normalize(nn.Module):
    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(vectors, dim=1)


class EmbeddingModules(nn.Module):
    """All modules after the transformer."""

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self.pooling = Pooling(("mean",))
        layers: list[nn.Module] = []
        for name, path in folder.modules[1:]:
            if name == "Pooling" and not layers:
                self.pooling = Pooling(_modes(folder, folder.read(f"{path}/config.json", {})))
            elif name == "Dense":
                layers.append(Dense(folder, path))
            elif name == "Normalize":
                layers.append(Normalize())
            else:
                raise folder.error(f"has the module {name}; supported are Transformer, Pooling, Dense and Normalize")
        self.layers = nn.Sequential(*layers)
        self.normalized = bool(layers) and isinstance(layers[-1], Normalize)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.layers(self.pooling(hidden.float(), mask))


def _modes(folder: Folder, config: dict[str, Any]) -> tuple[str, ...]:
    if config.get("include_prompt") is False:
        raise folder.error("leaves the prompt out of its pooling (include_prompt), which isn't supported")
    mode = config.get("pooling_mode") or [mode for key, mode in _MODES.items() if config.get(key)] or ["mean"]
    modes = (mode,) if isinstance(mode, str) else tuple(mode)
    if unknown := set(modes) - set(_MODES.values()):
        raise folder.error(f"has the pooling mode {min(unknown):.60}; known are {', '.join(_MODES.values())}")
    return modes
