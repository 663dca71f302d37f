"""A fingerprint of a loaded model, equal for workers that give the same answers."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePath

import msgspec

from smartbatch.worker.core.model import Model

DIGITS = 12


def fingerprint(model: Model, model_path: str, weights: str) -> str:
    """Hash the model's files, weights, inputs and outputs. Their folder doesn't count: it may differ between hosts."""
    described = (PurePath(model_path).name, model.inputs or model.input, model.outputs)
    digest = hashlib.sha256(msgspec.json.encode(described))
    files = list(model.files)
    if Path(weights).is_file():
        files.append(weights)
    else:
        digest.update(weights.encode())
    for file in files:
        with Path(file).open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:DIGITS]
