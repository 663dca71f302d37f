"""Users' models, written by a test and loaded as MODEL_PATH names them."""

from __future__ import annotations

import sys
import textwrap
from typing import Any

import pytest

from smartbatch.worker.models import LoadContext, resolve


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Write a module into the working directory and load its class Mine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])

    def serve(source: str, name: str = "Mine", **settings: Any):
        monkeypatch.delitem(sys.modules, "their_model", raising=False)
        (tmp_path / "their_model.py").write_text("import numpy as np, torch\n" + textwrap.dedent(source))
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            model = resolve(f"their_model:{name}")
        finally:
            sys.dont_write_bytecode = before
        model.load(LoadContext(device="cpu", torch_threads=1, **settings))
        return model

    yield serve
    sys.modules.pop("their_model", None)
