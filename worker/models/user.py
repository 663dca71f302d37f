"""A user's own model, served as `MODEL_PATH=module:name` or `MODEL_PATH=path/to/file.py:name`.

A module is imported like any other; the working directory is searched too. The name is that of a class, of a function
without arguments that makes the model, or of the model itself. Only `forward` is required:

    class Doubler:
        def forward(self, batch):          # a tensor (rows, …) on the device
            return batch * 2               # one output per row, in the same order

The other methods have defaults and are called in this order:

    load(self, device)      once: read weights, move them to `device` (a torch.device). `load(self)` works too, and
                            `load(self, device, weights)`, which gets MODEL_WEIGHTS (None for `default`).
    network(self)           once: returns an nn.Module that takes the place of `forward`.
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

The model may be an `nn.Module` itself, or hold modules in its attributes. After `load` they are put into evaluation
mode and, if they are on the CPU, moved to the device. With `train_mode = True` in the class they keep their mode.

A network that is handed over is served by a ServedNetwork, as torchvision's are: the model itself if it is a module,
what its method `network` returns, or its attribute `network`, which is replaced, so that its `forward` calls that.
`overlaps = True` says that batches may be launched while the outputs of earlier ones are still being copied; without it
the batches of a network that was handed over overlap where the device allows it.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from smartbatch.shared.errors import InvalidInput, ModelFailed, ModelLoadError, SmartBatchError
from smartbatch.shared.model_info import InputSpec, OutputSpec
from smartbatch.shared.wire import Payload, Result
from smartbatch.worker.core import device as devices
from smartbatch.worker.core.model import INPUTS, LoadContext
from smartbatch.worker.core.random_rows import mates, uneven
from smartbatch.worker.core.tensors import to_torch
from smartbatch.worker.core.user_traceback import describe, one_line
from smartbatch.worker.core.weights import fill, read_state_dict
from smartbatch.worker.models.named_inputs import content_of, join, specs_of
from smartbatch.worker.models.row_values import check_announced, from_row_outputs, split_rows
from smartbatch.worker.models.torch_model import TorchModel
from smartbatch.worker.models.user_code import find, make
from smartbatch.worker.optimization import trees
from smartbatch.worker.optimization.network import ServedNetwork
from smartbatch.worker.optimization.trees import Tree

log = logging.getLogger(__name__)


class UserModel(TorchModel):
    """Wraps the user's model and provides the defaults."""

    def __init__(self, path: str) -> None:
        self._path = path
        found, file = find(path)
        self.files = (file,)
        self._user: Any = make(path, found)
        self._collate = self._method("collate")
        self._group = self._method("group")
        self._size = self._method("size")
        self._decode = self._method("decode")
        self._encode = self._method("encode")
        self.input = InputSpec(("image", "tensor", "text", "raw"))
        self._forward: Callable[..., Any] = _not_loaded
        self._read_specs(self._method("forward"))

    def _method(self, name: str) -> Callable[..., Any] | None:
        method = getattr(self._user, name, None)
        return method if callable(method) else None

    def _read_specs(self, forward: Callable[..., Any] | None) -> None:
        """Read what the class announces, which it may know only after load()."""
        announced = getattr(self._user, "input", None)
        if isinstance(announced, dict):
            self.input, self.inputs = INPUTS, specs_of(announced, self._path)
        elif announced is not None:
            self.input = announced
        parameters = inspect.signature(forward).parameters if self.inputs and forward else {}
        self._by_name = bool(parameters) and all(spec.name in parameters for spec in self.inputs)
        self.outputs: tuple[OutputSpec, ...] = tuple(getattr(self._user, "outputs", ()))
        self.sized = self._size is not None or (self._collate is not None and not _fixed_shape(self.input))

    def load(self, context: LoadContext) -> None:
        self._device = devices.open_device(context)
        self._call_load(context.weights)
        for module in _modules(self._user):
            self._prepare(module)
        own, module = self._hand_over()
        self._read_specs(own or (module and module.forward))
        self._forward = own or _not_loaded
        self.device_name = devices.device_name(self._device)
        overlaps = False
        if module is not None:
            overlaps = self._serve(module, own, context)
        elif context.dtype != "float32":
            raise ModelLoadError(
                f"DTYPE={context.dtype} doesn't apply to {self._path}: hand its network over "
                "(self.network, docs/your-model.md), or choose the type in its load()"
            )
        elif context.optimize == "auto" and any(_modules(self._user)):
            log.info("OPTIMIZE: %s runs as it is: it doesn't hand over its network (self.network)", self._path)
        self.overlaps = bool(getattr(self._user, "overlaps", overlaps and self._device.type == "cuda"))

    def _hand_over(self) -> tuple[Callable[..., Any] | None, nn.Module | None]:
        """Return the class's own `forward`, and the network that it hands over, prepared; each may be None."""
        own = self._method("forward")
        if isinstance(self._user, nn.Module):
            return None, self._user
        module = getattr(self._user, "network", None)
        if inspect.ismethod(module):
            if own is not None:
                raise ModelLoadError(
                    f"{self._path} has a method network() besides forward(): set self.network in load() for forward to "
                    "call, or leave forward() out"
                )
            module = self._call_theirs("network()", module)
            if not isinstance(module, nn.Module):
                raise ModelLoadError(f"{self._path}: network() returned a {type(module).__name__}, not an nn.Module")
            self._prepare(module)
        if isinstance(module, nn.Module):
            return own, module
        if own is None:
            raise ModelLoadError(f"{self._path} has no method forward(self, batch) and no network")
        return own, None

    def _serve(self, module: nn.Module, own: Callable[..., Any] | None, context: LoadContext) -> bool:
        """Serve a network that was handed over, by itself or for `own` to call. Returns whether batches may overlap."""
        uneven_batch = self._uneven_batch if self.sized else None
        self.network = network = ServedNetwork(module, self._device, context.dtype, self._even_batch, uneven_batch)
        if context.dtype != "float32":
            self.compute_dtype = context.dtype
        if own is None:
            self._forward = network
            return self.optimize(network, context)
        self._user.network = network
        return self.optimize(network, context) and self._keeps_no_outputs()

    def _even_batch(self, rows: int) -> Tree:
        return self._network_batch(self._random_batch(rows))

    def _uneven_batch(self, rows: int) -> Tree:
        return self._network_batch(self.collate(uneven(self._example_row(), rows)))

    def _network_batch(self, batch: Any) -> Tree:
        """Return what the network gets for a batch."""
        assert self.network is not None
        if self._forward is self.network:
            return ((), batch) if self._by_name else batch if isinstance(batch, torch.Tensor) else ((batch,), {})
        with self.network.recording() as batches:
            self.forward(batch)
        if len(batches) != 1:
            raise ValueError(f"forward calls self.network {len(batches)} times, and it must be once per batch")
        return batches[0]

    def _random_batch(self, rows: int) -> Any:
        row = self._example_row()
        drawn = mates(row, rows)
        if len({self.group(each) for each in drawn}) > 1:
            drawn = [row] * rows
        return self.collate(drawn)

    def _example_row(self) -> Any:
        """Raises ValueError if nothing is known of rows."""
        row = self.example()
        if row is None:
            raise ValueError("there is no `example`, nor an `input` with shape and dtype")
        return row

    def _keeps_no_outputs(self) -> bool:
        """Return whether the next forward leaves the outputs of the previous one alone."""
        first, second = (self.forward(self._random_batch(1)) for _ in range(2))
        memory = [
            {tensor.untyped_storage().data_ptr() for tensor in trees.tensors(outputs)} for outputs in (first, second)
        ]
        return not memory[0] & memory[1]

    def _call_theirs(self, what: str, function: Callable[..., Any], *positional: Any, **named: Any) -> Any:
        try:
            return function(*positional, **named)
        except SmartBatchError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise ModelLoadError(f"{self._path}: {what} failed, {describe(error)}") from error

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
        positional = (self._device,) if takes.keys() - {"weights"} else ()
        self._call_theirs("load", load, *positional, **arguments)

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
            return devices.stack_arrays_on(self._device, rows)
        if all(isinstance(row, torch.Tensor) for row in rows):
            return devices.stack_on(self._device, rows)
        return list(rows)

    @torch.inference_mode()
    def forward(self, batch: Any) -> Any:
        outputs = self._forward(**batch) if self._by_name else self._forward(batch)
        return devices.copy_back(outputs) if self.overlaps else outputs

    def separate(self, outputs: Any, rows: int) -> list[Any]:
        separated = split_rows(outputs, rows)
        if self._encode is None:  # here a batch that fails is halved until the row at fault is alone
            check_announced(separated, self.outputs)
        return separated

    def encode(self, rows: Sequence[Any], options: dict[str, Any]) -> Result:
        encoded = rows if self._encode is None else [self._encode(row) for row in rows]
        try:
            if self._encode is not None:
                check_announced(encoded, self.outputs)
            return from_row_outputs(list(encoded))
        except (TypeError, RuntimeError) as error:
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


def _not_loaded(*_: Any, **__: Any) -> Any:
    raise RuntimeError("the model is not loaded yet")
