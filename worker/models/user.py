"""A user's own class, served as `MODEL_PATH=module:Class` or `MODEL_PATH=path/to/file.py:Class`.

A module is imported like any other; the working directory is searched too. Only `forward` is required:

    class Doubler:
        def forward(self, batch):          # a tensor (rows, …) on the device
            return batch * 2               # one output per row, in the same order

The other methods have defaults and are called in this order:

    load(self, device)      once: read weights, move them to `device` (a torch.device). `load(self)` works too, and
                            `load(self, device, weights)`, which gets MODEL_WEIGHTS (None for `default`).
    decode(self, payload)   a request's payload → a list of rows. `payload.kind` is "tensor", "text", "image" or
                            "raw", `payload.content` its content (shared/wire.py). Raise ValueError with a text
                            for the client if the input is wrong. Runs in several threads at once.
                            Default: a torch tensor per row; a str per text; bytes per image; a raw body's bytes.
    collate(self, rows)     a list of rows → one batch. Default: tensors and arrays of one shape are stacked on the
                            device; anything else stays a list.
    forward(self, batch)    one batch → the outputs of its rows: a tensor or array whose first dimension is rows, a
                            dict or tuple of such, or a list with one output per row.
    encode(self, row)       one row's output → what the client gets: a tensor or array, or anything that JSON can
                            represent. Default: the output unchanged. Runs in several threads at once.

Rows of different shapes or dtypes run in separate forwards unless the class has its own `collate`, which may pad them;
`group(self, row)` may return a key that is equal for rows that can be collated. Rows that are padded have a size, by
which they are cut into batches: `size(self, row)` returns it, by default the length of the row's first dimension.
`input` (an InputSpec) and `outputs` (OutputSpecs) are announced to gateways, which then reject other input early;
`example(self)` returns a row for warm-up. An instance belongs to one worker; `load` and `forward` run in its one device
thread.

If `input` is a dict of InputSpecs by name, `decode` gets a dict of payloads by name, and by default a row is a dict of
values, and a batch one of what is stacked or listed. `forward` gets it as that dict, or as keyword arguments if it has
an argument for each input.

The class may be an `nn.Module` itself, or hold modules in its attributes. After `load` they are put into evaluation
mode and, if they are on the CPU, moved to the device. With `train_mode = True` in the class they keep their mode.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from smartbatch.shared.errors import InvalidInput, ModelFailed, ModelLoadError, SmartBatchError
from smartbatch.shared.model_info import InputSpec, OutputSpec
from smartbatch.shared.wire import Payload, Result
from smartbatch.worker.core import device as devices
from smartbatch.worker.core.model import INPUTS, LoadContext, Model
from smartbatch.worker.core.tensors import to_torch
from smartbatch.worker.core.user_traceback import describe, one_line
from smartbatch.worker.core.weights import fill, read_state_dict
from smartbatch.worker.models.named_inputs import content_of, join, specs_of
from smartbatch.worker.models.row_values import from_row_outputs, split_rows


class UserModel(Model):
    """Wraps one instance of the user's class and provides the defaults."""

    def __init__(self, path: str) -> None:
        self._path = path
        found = _find_class(path)
        self.files = (inspect.getfile(found),)
        self._user: Any = _instantiate(path, found)
        self._forward = self._user if isinstance(self._user, nn.Module) else self._user.forward  # with a module's hooks
        self._collate = self._method("collate")
        self._group = self._method("group")
        self._size = self._method("size")
        self._decode = self._method("decode")
        self._encode = self._method("encode")
        self.input = InputSpec(("image", "tensor", "text", "raw"))
        self._read_specs()
        self._device = torch.device("cpu")

    def _method(self, name: str) -> Callable[..., Any] | None:
        method = getattr(self._user, name, None)
        return method if callable(method) else None

    def _read_specs(self) -> None:
        """Read what the class announces, which it may know only after load()."""
        announced = getattr(self._user, "input", None)
        if isinstance(announced, dict):
            self.input, self.inputs = INPUTS, specs_of(announced, self._path)
        elif announced is not None:
            self.input = announced
        parameters = inspect.signature(self._user.forward).parameters if self.inputs else {}
        self._by_name = bool(parameters) and all(spec.name in parameters for spec in self.inputs)
        self.outputs: tuple[OutputSpec, ...] = tuple(getattr(self._user, "outputs", ()))
        self.sized = self._size is not None or (self._collate is not None and not _fixed_shape(self.input))

    def load(self, context: LoadContext) -> None:
        self._device = devices.open_device(context)
        if context.dtype != "float32":
            raise ModelLoadError(f"DTYPE={context.dtype} doesn't apply to {self._path}: choose the type in its load()")
        self._call_load(context.weights)
        for module in _modules(self._user):
            self._prepare(module)
        self._read_specs()
        self.device_name = devices.device_name(self._device)

    def _call_load(self, weights: str) -> None:
        """Call the class's `load` with as many arguments as it takes; read MODEL_WEIGHTS for a module without one."""
        load = self._method("load")
        takes = inspect.signature(load).parameters if load else {}
        if weights not in ("default", "random") and "weights" not in takes:
            if load is not None or not isinstance(self._user, nn.Module):
                raise ModelLoadError(
                    f"MODEL_WEIGHTS={weights} doesn't apply to {self._path}: it has no load(self, device, weights)"
                )
            fill(self._user, read_state_dict(weights), weights, self._path)
        if load is None:
            return
        arguments: dict[str, Any] = {"weights": None if weights == "default" else weights} if "weights" in takes else {}
        try:
            load(self._device, **arguments) if takes.keys() - {"weights"} else load(**arguments)
        except SmartBatchError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise ModelLoadError(f"{self._path}: load failed, {describe(error)}") from error

    def _prepare(self, module: nn.Module) -> None:
        """Move a module to the device and let it compute what it does at inference."""
        tensors = list(itertools.chain(module.parameters(), module.buffers()))
        if all(tensor.device.type == "cpu" for tensor in tensors):  # otherwise load() has placed it
            module.to(self._device)
        module.requires_grad_(False)
        if not (getattr(self._user, "train_mode", False) or getattr(module, "train_mode", False)):
            module.eval()
        floats = [tensor.dtype for tensor in tensors if tensor.dtype.is_floating_point]
        if floats:
            self.compute_dtype = str(min(floats, key=lambda dtype: dtype.itemsize)).removeprefix("torch.")

    def example(self) -> Any:
        """Return the class's example, else zeros of its announced shapes, else None."""
        example = self._method("example")
        if example is not None:
            return example()
        if not self.inputs:
            return _zeros(self.input)
        row = {spec.name: _zeros(spec) for spec in self.inputs}
        return None if any(value is None for value in row.values()) else row

    def decode(self, payload: Payload) -> list[Any]:
        content: Any = payload
        if self.inputs:
            content = content_of(payload, self.inputs)
        elif payload.kind == "inputs":
            raise InvalidInput(f"expected {' or '.join(self.input.kinds)}, got several inputs")
        if self._decode is None:
            return _default_rows(content)
        try:
            return list(self._decode(content))
        except ValueError as error:  # by convention a text for the client
            raise InvalidInput(one_line(error)) from error

    def group(self, row: Any) -> Hashable:
        if self._group is not None:
            return self._group(row)
        if self._collate is None and isinstance(row, torch.Tensor | np.ndarray):
            return str(row.dtype), tuple(row.shape)
        if self._collate is None and self.inputs and isinstance(row, dict):
            return tuple((name, _shape_of(value)) for name, value in row.items())
        return None

    def size(self, row: Any) -> int:
        if self._size is not None:
            return self._size(row)
        shape = tuple(getattr(row, "shape", ()))
        return max(1, int(shape[0])) if shape else 1

    def collate(self, rows: Sequence[Any]) -> Any:
        if self._collate is not None:
            return self._collate(list(rows))
        if self.inputs and all(isinstance(row, dict) for row in rows):
            return {name: self._stack([row[name] for row in rows]) for name in rows[0]}
        return self._stack(rows)

    def _stack(self, rows: Sequence[Any]) -> Any:
        if all(isinstance(row, np.ndarray) for row in rows):
            return torch.from_numpy(np.stack(rows)).to(self._device)
        if all(isinstance(row, torch.Tensor) for row in rows):
            return devices.stack_on(self._device, rows)
        return list(rows)

    @torch.inference_mode()
    def forward(self, batch: Any) -> Any:
        return self._forward(**batch) if self._by_name else self._forward(batch)

    def separate(self, outputs: Any, rows: int) -> list[Any]:
        return split_rows(outputs, rows)

    def free_memory(self) -> None:
        devices.free_memory()

    def device_memory(self) -> dict[str, int]:
        return devices.memory(self.device_name)

    def device_works(self) -> bool:
        return devices.works(self._device)

    def encode(self, rows: Sequence[Any], options: dict[str, Any]) -> Result:
        encoded = rows if self._encode is None else [self._encode(row) for row in rows]
        try:
            return from_row_outputs(list(encoded))
        except TypeError as error:
            raise ModelFailed(str(error)) from None


def _modules(user: Any) -> Iterator[nn.Module]:
    """Find a user's modules: the object itself, its attributes, and lists, tuples and dicts of modules in these."""
    if isinstance(user, nn.Module):
        yield user
        return
    for value in getattr(user, "__dict__", {}).values():
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
        yield from (module for module in values if isinstance(module, nn.Module))


def _fixed_shape(spec: InputSpec) -> bool:
    return spec.shape is not None and -1 not in spec.shape


def _zeros(spec: InputSpec) -> torch.Tensor | None:
    if spec.shape is None or spec.dtype is None:
        return None
    return torch.zeros([max(size, 1) for size in spec.shape], dtype=getattr(torch, spec.dtype))


def _shape_of(value: Any) -> Hashable:
    return (str(value.dtype), tuple(value.shape)) if isinstance(value, torch.Tensor | np.ndarray) else None


def _default_rows(payload: Payload | dict[str, Payload]) -> list[Any]:
    if isinstance(payload, dict):
        return join({name: _default_rows(each) for name, each in payload.items()})
    content: Any = payload.content
    if payload.kind == "tensor":
        return list(to_torch(content))
    return [content.data] if payload.kind == "raw" else list(content)


def _find_class(path: str) -> type:
    module_name, _, class_name = path.rpartition(":")
    file = Path(module_name).absolute() if module_name.endswith(".py") else None
    if file and not file.is_file():
        raise ModelLoadError(f"MODEL_PATH={path}: there is no file {file}")
    if not file and "/" in module_name:
        raise ModelLoadError(f"MODEL_PATH={path}: a file is named with its ending: {module_name}.py:{class_name}")
    directory = str(file.parent if file else Path.cwd())
    if directory not in sys.path and (file or "" not in sys.path):
        sys.path.insert(0, directory)
    try:
        module = _import_file(file) if file else importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ModelLoadError(f"MODEL_PATH={path}: no module {error.name!r}, not in {directory} either") from None
        raise ModelLoadError(f"MODEL_PATH={path}: {module_name} requires {error.name!r}, not installed") from error
    except Exception as error:  # the user's code may raise anything
        raise ModelLoadError(f"MODEL_PATH={path}: importing {module_name} failed, {describe(error)}") from error
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        raise ModelLoadError(f"MODEL_PATH={path}: {_no_class(module, module_name, class_name)}")
    if not callable(getattr(found, "forward", None)):
        raise ModelLoadError(f"MODEL_PATH={path}: {class_name} has no method forward(self, batch)")
    return found


def _no_class(module: ModuleType, module_name: str, name: str) -> str:
    """Say what a module has under a name that is not a class's, and how to name a class."""
    classes = [
        each
        for each, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and callable(getattr(value, "forward", None))
    ]
    hint = f"; classes with a forward: {', '.join(classes)}" if classes else "; it has no class with a forward either"
    found = getattr(module, name, None)
    if inspect.isfunction(found):
        return (
            f"{name} is a function, and a model is a class; make one that calls it: "
            f"class Model: forward = staticmethod({name}){hint if classes else ''}"
        )
    if found is not None:
        return f"{name} is an object of class {type(found).__name__}, and a model is named by its class{hint}"
    return f"{module_name} has no class {name!r}{hint}"


def _import_file(file: Path) -> ModuleType:
    """Import a file as a module named after its stem, even if another module has that name."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # before it runs: dataclasses and pickle look their module up
    spec.loader.exec_module(module)
    return module


def _instantiate(path: str, found: type) -> Any:
    try:
        return found()
    except Exception as error:  # the user's code may raise anything
        raise ModelLoadError(f"MODEL_PATH={path}: {path.rpartition(':')[2]}() failed, {describe(error)}") from error
