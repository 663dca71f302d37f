"""What a text model answers: one head for embeddings, one for the scores of pairs, one for classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.model_info import InputSpec
from smartbatch.shared.wire import Payload, Result
from smartbatch.worker.core.model import INPUTS
from smartbatch.worker.core.tensors import from_numpy
from smartbatch.worker.models.named_inputs import content_of
from smartbatch.worker.models.text.folder import Folder
from smartbatch.worker.models.text.pooling import EmbeddingModules
from smartbatch.worker.models.text.tokens import TextTokenizer, Tokens

TEXT_OR_IDS = InputSpec(("text", "tensor"), "int64", (-1,))
QUERY, DOCUMENT = InputSpec(("text",), name="query"), InputSpec(("text",), name="document")


class Head(ABC):
    """Created once the network is loaded."""

    auto_class: str  # transformers' class that loads the network
    input: InputSpec = TEXT_OR_IDS
    inputs: tuple[InputSpec, ...] = ()
    output: str  # its name
    classifier = False

    def decode(self, payload: Payload, tokenizer: TextTokenizer) -> list[Tokens]:
        content: Any = payload.content
        if payload.kind == "text":
            return tokenizer.texts(content)
        if payload.kind == "tensor":
            return tokenizer.ids(content)
        raise InvalidInput(f"expected text, or token ids as a tensor, got {payload.kind}")

    @abstractmethod
    def values(self, network_output: Any, mask: torch.Tensor) -> torch.Tensor:
        """Return (rows, …) float32 on the device."""

    @abstractmethod
    def encode(self, values: np.ndarray, options: dict[str, Any]) -> Result:
        """`values` are those of one request's rows, finite."""


class EmbeddingHead(Head):
    auto_class = "AutoModel"
    output = "embedding"

    def __init__(self, folder: Folder, device: torch.device) -> None:
        self._modules = EmbeddingModules(folder).eval().to(device)

    def values(self, network_output: Any, mask: torch.Tensor) -> torch.Tensor:
        return self._modules(network_output.last_hidden_state, mask)

    def encode(self, values: np.ndarray, options: dict[str, Any]) -> Result:
        wanted, length = options.get("dimensions") or values.shape[1], values.shape[1]
        if not isinstance(wanted, int) or not 0 < wanted <= length:
            raise InvalidInput(f"dimensions: expected a whole number from 1 to {length}, got {wanted!r:.50}")
        if wanted < length:
            values = values[:, :wanted]
            if self._modules.normalized:
                values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        return Result(outputs={self.output: from_numpy(values)})


class ScoreHead(Head):
    """The relevance of a document to a query, by a cross-encoder with one output."""

    auto_class = "AutoModelForSequenceClassification"
    output = "score"
    input, inputs = INPUTS, (QUERY, DOCUMENT)

    def __init__(self, folder: Folder) -> None:
        own = folder.config.get("sentence_transformers") or {}
        activation = own.get("activation_fn") or folder.config.get("sbert_ce_default_activation_function") or "Sigmoid"
        self._sigmoid = str(activation).rpartition(".")[2] != "Identity"

    def decode(self, payload: Payload, tokenizer: TextTokenizer) -> list[Tokens]:
        content = content_of(payload, self.inputs)
        queries: Any = content["query"].content
        documents: Any = content["document"].content
        return tokenizer.pairs(queries, documents)

    def values(self, network_output: Any, mask: torch.Tensor) -> torch.Tensor:
        logits = network_output.logits.float().squeeze(1)  # (rows,)
        return logits.sigmoid() if self._sigmoid else logits

    def encode(self, values: np.ndarray, options: dict[str, Any]) -> Result:
        return Result(outputs={self.output: from_numpy(values)})


class ClassHead(Head):
    """The classes of a text."""

    auto_class = "AutoModelForSequenceClassification"
    output = "logits"
    classifier = True

    def __init__(self, folder: Folder) -> None:
        labels = {int(index): str(label) for index, label in (folder.config.get("id2label") or {}).items()}
        self._labels = labels
        self._several = folder.config.get("problem_type") == "multi_label_classification"

    def values(self, network_output: Any, mask: torch.Tensor) -> torch.Tensor:
        return network_output.logits.float()  # (rows, classes)

    def encode(self, values: np.ndarray, options: dict[str, Any]) -> Result:
        top_k = options.get("top_k") or 0
        if not isinstance(top_k, int) or top_k < 0:
            raise InvalidInput(f"expected top_k to be a whole number from 0, got {top_k!r:.50}")
        if not top_k:
            return Result(outputs={self.output: from_numpy(values)})
        return Result(classes=[self._top(logits, top_k) for logits in values])

    def _top(self, logits: np.ndarray, count: int) -> list[tuple[int, str, float]]:
        if self._several:
            probabilities = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
        else:
            weights = np.exp(logits - logits.max())
            probabilities = weights / weights.sum()
        best = np.argsort(-logits, kind="stable")[:count]
        return [(int(at), self._labels.get(int(at), str(at)), float(probabilities[at])) for at in best]


def head_of(folder: Folder, device: torch.device) -> Head:
    kind = folder.kind
    if kind == "embedding":
        return EmbeddingHead(folder, device)
    return ScoreHead(folder) if kind == "reranker" else ClassHead(folder)
