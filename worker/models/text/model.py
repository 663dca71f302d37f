"""A text model from a folder in Hugging Face's layout. A row is a list of token ids; a batch is padded to its longest
row, with a mask, so that an answer doesn't depend on the other rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from smartbatch.shared.errors import ModelFailed, ModelLoadError, SmartBatchError
from smartbatch.shared.model_info import OutputSpec
from smartbatch.shared.wire import Payload, Result
from smartbatch.worker.core import device as devices
from smartbatch.worker.core.model import LoadContext
from smartbatch.worker.core.random_rows import mates, uneven
from smartbatch.worker.core.tensors import to_numpy
from smartbatch.worker.core.user_traceback import one_line
from smartbatch.worker.models.text import folder as folders
from smartbatch.worker.models.text.folder import Folder
from smartbatch.worker.models.text.heads import TEXT_OR_IDS, head_of
from smartbatch.worker.models.text.tokens import TextTokenizer, Tokens
from smartbatch.worker.models.torch_model import TorchModel
from smartbatch.worker.optimization.network import ServedNetwork
from smartbatch.worker.optimization.trees import Tree

EXAMPLE = "Requests that arrive close together run as one batch, and each gets its own answer."


class TextBatch(NamedTuple):
    inputs: torch.Tensor  # (rows, 3, longest) int64: token ids, mask, token types
    lengths: list[int]


class RowOutput(NamedTuple):
    values: np.ndarray
    tokens: int


class TextModel(TorchModel):
    sized = True
    input = TEXT_OR_IDS

    def __init__(self, model_path: str, locate: Callable[[Callable[[str], None]], Path]) -> None:
        """`locate` returns the folder, and may fetch it: it gets a function that reports progress."""
        self._model_path = model_path
        self._locate = locate

    @classmethod
    def of(cls, name: str) -> TextModel:
        return cls(f"hf:{name}", lambda progress: folders.locate(name, progress))

    @classmethod
    def minilm(cls) -> TextModel:
        return cls("minilm", lambda progress: folders.minilm())

    def load(self, context: LoadContext) -> None:
        if context.weights != "default":
            raise ModelLoadError(f"MODEL_WEIGHTS={context.weights} doesn't apply to {self._model_path}")
        try:
            import transformers
        except ModuleNotFoundError:
            raise folders.missing_extra(self._model_path) from None
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        self._device = devices.open_device(context)
        folder = Folder(self._locate(context.progress), self._model_path)
        self._head = head = head_of(folder, self._device)
        try:
            # Attention is torch's scaled_dot_product_attention wherever transformers has it for the architecture.
            network = getattr(transformers, head.auto_class).from_pretrained(
                folder.transformer, local_files_only=True, dtype=devices.DTYPES[context.dtype]
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder.transformer, local_files_only=True)
        except SmartBatchError:
            raise
        except Exception as error:  # transformers raises anything for broken folders
            raise folder.error(f"can't be loaded ({one_line(error)})") from error
        network = network.eval().requires_grad_(False).to(self._device)
        embeddings = network.get_input_embeddings().num_embeddings
        self.network = self._served = ServedNetwork(
            network,
            self._device,
            context.dtype,
            lambda rows: self._network_batch(mates(self._example_ids(), rows)),
            lambda rows: self._network_batch(uneven(self._example_ids(), rows)),
        )
        self._tokenizer = TextTokenizer(folder, tokenizer, embeddings, _prompt(folder))
        self.input, self.inputs, self.classifier = head.input, head.inputs, head.classifier
        self.compute_dtype = context.dtype
        self.overlaps = self._device.type == "cuda"
        self.device_name = devices.device_name(self._device)
        self.files = folder.files
        row = self.separate(self.forward(self.collate([self.example()])), 1)[0].values
        self.outputs = (OutputSpec(head.output, "float32", row.shape),)
        self.optimize(self.network, context)
        context.progress(f"{folder.kind}, texts of up to {self._tokenizer.max_tokens} tokens")

    def example(self) -> Tokens:
        return self._tokenizer.texts([EXAMPLE])[0]

    def decode(self, payload: Payload) -> list[Tokens]:
        return self._head.decode(payload, self._tokenizer)

    def size(self, row: Tokens) -> int:
        return len(row.ids)

    def group(self, row: Tokens) -> Hashable:
        return None

    def collate(self, rows: Sequence[Tokens]) -> TextBatch:
        lengths = [len(row.ids) for row in rows]
        longest, pad = max(lengths), self._tokenizer.pad_id
        padded = np.zeros((len(rows), 3, longest), np.int64)
        padded[:, 0] = pad
        for at, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            padded[at, 0, :length] = row.ids
            padded[at, 1, :length] = 1
            padded[at, 2, :length] = row.types
        return TextBatch(devices.stack_on(self._device, list(torch.from_numpy(padded))), lengths)

    @torch.inference_mode()
    def forward(self, batch: TextBatch) -> tuple[Any, list[int]]:
        output = self._served(**self._arguments(batch))
        return devices.copy_back(self._head.values(output, batch.inputs[:, 1])), batch.lengths

    def _arguments(self, batch: TextBatch) -> dict[str, torch.Tensor]:
        ids, mask, types = batch.inputs.unbind(1)  # (rows, longest) int64 each
        arguments = {"input_ids": ids}
        # A GPU has a faster attention without a mask; on a CPU it gains little, and Inductor's code takes one.
        if self._device.type == "cpu" or min(batch.lengths) < ids.shape[1]:
            arguments["attention_mask"] = mask
        if self._tokenizer.with_types:
            arguments["token_type_ids"] = types
        return arguments

    def _network_batch(self, rows: list[np.ndarray]) -> Tree:
        """Return what the network gets for rows of token ids."""
        return (), self._arguments(self.collate([Tokens(row.tolist(), [0] * len(row)) for row in rows]))

    def _example_ids(self) -> np.ndarray:
        return np.array(self.example().ids)  # (tokens,) int64

    def separate(self, outputs: tuple[Any, list[int]], rows: int) -> list[RowOutput]:
        values, lengths = outputs
        array = values.wait() if isinstance(values, devices.AsyncHostCopy) else to_numpy(values)
        return [RowOutput(row, tokens) for row, tokens in zip(array, lengths, strict=True)]

    def encode(self, rows: Sequence[RowOutput], options: dict[str, Any]) -> Result:
        result = self._head.encode(_stack([row.values for row in rows]), options)
        result.tokens = sum(row.tokens for row in rows)
        return result


def _prompt(folder: Folder) -> str:
    """Return the text that sentence-transformers puts before each by default."""
    config = folder.read("config_sentence_transformers.json", {})
    return (config.get("prompts") or {}).get(config.get("default_prompt_name"), "") or ""


def _stack(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Raises ModelFailed for NaN and infinities, which no client can use."""
    values = np.stack(rows)
    if not np.isfinite(values).all():
        raise ModelFailed("the model returned NaN or infinity for this text")
    return values
