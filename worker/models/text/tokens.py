"""Texts to token ids, cut as the model's configuration says. Safe in several threads at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from smartbatch.shared.errors import InvalidInput
from smartbatch.shared.wire import Tensor
from smartbatch.worker.core.tensors import to_torch
from smartbatch.worker.models.text.folder import Folder

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # decode threads run beside each other already

PAD_ID = -1  # fills up rows of token ids that are shorter than the longest
UNLIMITED = 1_000_000  # a model_max_length beyond it means that none is configured
DEFAULT_MAX_TOKENS = 512
# A longer text is tokenized only up to the first whitespace after which it has enough tokens.
_CHARS_PER_TOKEN = 16
# Their position embeddings begin after the id of padding.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "xlm-roberta-xl", "xmod")


class Tokens(NamedTuple):
    """One row."""

    ids: list[int]
    types: list[int]  # 0 for the first text of a pair, 1 for the second


class TextTokenizer:
    def __init__(self, folder: Folder, tokenizer: Any, vocabulary: int, prompt: str) -> None:
        """`tokenizer` is transformers', `vocabulary` the number of token embeddings."""
        if not tokenizer.is_fast:
            raise folder.error("has no tokenizer.json, and its tokenizer can't be converted to one")
        self.max_tokens = _max_tokens(folder, tokenizer)
        self.pad_id = tokenizer.pad_token_id or 0
        self.with_types = "token_type_ids" in tokenizer.model_input_names
        self._vocabulary = vocabulary
        self._prompt = prompt
        self._tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if folder.read("sentence_bert_config.json", {}).get("do_lower_case"):
            _lower_case(self._tokenizer)
        self._counter = type(self._tokenizer).from_str(self._tokenizer.to_str())
        self._tokenizer.enable_truncation(
            self.max_tokens, strategy="longest_first", direction=tokenizer.truncation_side
        )
        self._cuts_end = tokenizer.truncation_side == "right"

    def texts(self, texts: Sequence[str]) -> list[Tokens]:
        return self._encode([self._shorten(self._prompt + text) for text in texts])

    def pairs(self, first: Sequence[str], second: Sequence[str]) -> list[Tokens]:
        return self._encode([(self._shorten(a), self._shorten(b)) for a, b in zip(first, second, strict=True)])

    def ids(self, tensor: Tensor) -> list[Tokens]:
        """Take rows of token ids as they are, without special tokens being added. Raises InvalidInput."""
        if "int" not in tensor.dtype or len(tensor.shape) != 2:
            raise InvalidInput(
                f"expected texts, or rows of token ids as integers, got {tensor.dtype} of shape {list(tensor.shape)}"
            )
        rows = to_torch(tensor).to(torch.int64)  # (rows, longest) int64
        return [self._checked(row.tolist()) for row in rows]

    def _checked(self, ids: list[int]) -> Tokens:
        while ids and ids[-1] == PAD_ID:
            ids.pop()
        if not ids:
            raise InvalidInput("expected at least one token id, got none")
        for value in (min(ids), max(ids)):
            if not 0 <= value < self._vocabulary:
                raise InvalidInput(f"token ids of this model are 0 to {self._vocabulary - 1}, got {value}")
        ids = ids[: self.max_tokens]
        return Tokens(ids, [0] * len(ids))

    def _encode(self, texts: Sequence[Any]) -> list[Tokens]:
        try:
            encoded = self._tokenizer.encode_batch_fast(texts)  # without the GIL
        except (TypeError, UnicodeEncodeError):  # a lone surrogate
            raise InvalidInput("the text isn't valid Unicode") from None
        rows = [Tokens(each.ids, each.type_ids) for each in encoded]
        if not all(row.ids for row in rows):
            raise InvalidInput("the text is empty: it has no tokens")
        return rows

    def _shorten(self, text: str) -> str:
        """Cut off what truncation would cut off anyway: to tokenize a megabyte takes a second."""
        end = self.max_tokens * _CHARS_PER_TOKEN
        while end < len(text) and self._cuts_end:
            at = max(text.rfind(" ", 0, end), text.rfind("\n", 0, end))
            if at > 0 and self._tokens(text[:at]) > self.max_tokens:
                return text[:at]
            end *= 4
        return text

    def _tokens(self, text: str) -> int:
        (encoded,) = self._counter.encode_batch_fast([text], add_special_tokens=False)
        return len(encoded.ids)


def _max_tokens(folder: Folder, tokenizer: Any) -> int:
    """Return the least of what sentence-transformers, the tokenizer and the network are configured for."""
    config = folder.config
    limits = [tokenizer.model_max_length]
    if own := folder.read("sentence_bert_config.json", {}).get("max_seq_length"):
        limits = [own]
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and positions > 0:
        offset = 1 + (config.get("pad_token_id") or 0) if config.get("model_type") in _OFFSET_POSITIONS else 0
        limits.append(positions - offset)
    least = min(limits)
    return DEFAULT_MAX_TOKENS if least > UNLIMITED else int(least)


def _lower_case(tokenizer: Any) -> None:
    from tokenizers.normalizers import Lowercase, Sequence

    normalizer = tokenizer.normalizer
    tokenizer.normalizer = Sequence([Lowercase(), *([normalizer] if normalizer else [])])
