"""Programs saved by torch.export (`.pt2`): one or more tensors in, one or more tensors out.

The first dimension of all is the batch. Where the program bounds its size, batches are split and padded to fit.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smartbatch.shared.errors import InvalidInput, ModelLoadError
from smartbatch.shared.model_info import InputSpec, OutputSpec
from smartbatch.shared.wire import Payload, Result
from smartbatch.worker.core import device as devices
from smartbatch.worker.core.model import INPUTS, LoadContext
from smartbatch.worker.core.tensors import from_numpy, to_torch
from smartbatch.worker.core.user_traceback import one_line
from smartbatch.worker.models.named_inputs import content_of, join, specs_of
from smartbatch.worker.models.row_values import split_rows
from smartbatch.worker.models.torch_model import TorchModel

RowOutput = dict[str, np.ndarray]


class Exported(TorchModel):
    """A row is a torch tensor of the program's dtype and shape, without the batch dimension; or such by input name."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.files = (path,)

    def load(self, context: LoadContext) -> None:
        self._device = devices.open_device(context)
        if context.dtype != "float32":
            raise ModelLoadError(
                f"DTYPE={context.dtype} doesn't apply to {self._path}: "
                "a program computes in the type that it was exported with"
            )
        if not Path(self._path).is_file():
            raise ModelLoadError(f"MODEL_PATH: there is no file {self._path}")
        try:
            program = torch.export.load(self._path)
        except Exception as error:  # damaged archives make torch raise anything
            raise ModelLoadError(f"{self._path} is not a program saved by torch.export ({one_line(error)})") from None
        self._read_input(program)
        self.overlaps = self._device.type == "cuda" and is_pure(program)
        if self._device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, self._device)
        self._network = program.module()
        self._structure: Any = program.call_spec.in_spec
        outputs = self.separate(self.forward(self.collate([self.example()])), 1)[0]
        self.outputs = tuple(OutputSpec(name, str(row.dtype), row.shape) for name, row in outputs.items())
        self.device_name = devices.device_name(self._device)
        if self._smallest > 1 or self._largest < context.max_batch_size:
            context.progress(
                f"{self._path} accepts {self._smallest} to {self._largest} rows: batches are split and padded to fit"
            )

    def _read_input(self, program: torch.export.ExportedProgram) -> None:
        names = program.graph_signature.user_inputs
        nodes = {node.name: node.meta.get("val") for node in program.graph.nodes}
        values: list[Any] = [nodes.get(str(name)) for name in names]
        are_tensors = all(isinstance(value, torch.Tensor) and value.dim() for value in values)
        if not are_tensors or len({str(value.shape[0]) for value in values}) != 1:
            raise ModelLoadError(
                "expected a program of tensors whose first dimension is the batch, one and the same for all, but "
                f"{self._path} takes {', '.join(map(_described, names, values))}"
            )
        self._smallest, self._largest = _bounds(program, values[0].shape[0])
        specs = {str(name): _spec(value) for name, value in zip(names, values, strict=True)}
        if len(specs) == 1:
            (self.input,) = specs.values()
        else:
            self.input, self.inputs = INPUTS, specs_of(specs, self._path)

    def example(self) -> Any:
        row = {spec.name: _zeros(spec) for spec in self.inputs or (self.input,)}
        return row if self.inputs else row[self.input.name]

    def decode(self, payload: Payload) -> list[Any]:
        if not self.inputs:
            return _rows(payload, self.input)
        content = content_of(payload, self.inputs)
        return join({spec.name: _rows(content[spec.name], spec) for spec in self.inputs})

    def group(self, row: Any) -> Hashable:
        if not self.inputs:
            return row.dtype, row.shape
        return tuple((tensor.dtype, tensor.shape) for tensor in row.values())

    def collate(self, rows: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        """Return a tensor (rows, …) for each input."""
        if not self.inputs:
            return (devices.stack_on(self._device, rows),)
        return tuple(devices.stack_on(self._device, [row[spec.name] for row in rows]) for spec in self.inputs)

    @torch.inference_mode()
    def forward(self, batch: Sequence[torch.Tensor]) -> Sequence[dict[str, Any]]:
        """Return the outputs of each part of the batch, by name."""
        most = min(self._largest, len(batch[0]))
        return devices.copy_back(
            [self._run(parts) for parts in zip(*(tensor.split(most) for tensor in batch), strict=True)]
        )

    def _run(self, parts: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        rows = len(parts[0])
        if rows < self._smallest:
            missing = self._smallest - rows
            parts = [torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) for part in parts]
        arguments, keywords = self._structure.unflatten(parts)
        return {name: output[:rows] for name, output in _named(self._network(*arguments, **keywords)).items()}

    def separate(self, outputs: Sequence[dict[str, Any]], rows: int) -> list[RowOutput]:
        most = min(self._largest, rows)
        parts = [split_rows(part, min(most, rows - at * most)) for at, part in enumerate(outputs)]
        return [row for part in parts for row in part]

    def encode(self, rows: Sequence[RowOutput], options: dict[str, Any]) -> Result:
        return Result(outputs={name: from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]})


def is_pure(program: torch.export.ExportedProgram) -> bool:
    """Return whether a program keeps no state. It might return it while its next forward changes it."""
    operations = (node.target for node in program.graph.nodes)
    if any(getattr(getattr(each, "_schema", None), "is_mutable", False) for each in operations):
        program = program.run_decompositions({})  # then the signature lists the buffers that operations in place change
    return not program.graph_signature.buffers_to_mutate


def _described(name: object, value: object) -> str:
    return f"{name} {list(value.shape)}" if isinstance(value, torch.Tensor) else f"{name} (no tensor)"


def _spec(value: torch.Tensor) -> InputSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape[1:])
    return InputSpec(("tensor",), str(value.dtype).removeprefix("torch."), shape)


def _zeros(spec: InputSpec) -> torch.Tensor:
    return torch.zeros([2 if size < 0 else size for size in spec.shape or ()], dtype=getattr(torch, spec.dtype or ""))


def _rows(payload: Payload, spec: InputSpec) -> list[torch.Tensor]:
    content: Any = payload.content
    expected = spec.shape
    assert expected is not None and spec.dtype is not None
    if payload.kind != "tensor":
        raise InvalidInput(f"expected a tensor, got {payload.kind}")
    rows, dtype = to_torch(content), getattr(torch, spec.dtype)  # (rows, …)
    if dtype.is_floating_point and rows.dtype.is_floating_point:
        rows = rows.to(dtype)  # numbers in JSON have no width
    if rows.dtype != dtype:
        raise InvalidInput(f"expected a tensor of dtype {spec.dtype}, got {content.dtype}")
    shape = tuple(rows.shape[1:])
    if len(shape) != len(expected) or any(e not in (-1, s) for e, s in zip(expected, shape, strict=True)):
        raise InvalidInput(f"expected a tensor of shape {['rows', *expected]}, got {list(rows.shape)}")
    return list(rows)


def _named(outputs: Any) -> dict[str, torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return {"output": outputs}
    if isinstance(outputs, dict):
        return outputs
    return {f"output_{index}": output for index, output in enumerate(outputs)}


def _bounds(program: torch.export.ExportedProgram, batch: Any) -> tuple[int, int]:
    """Return the smallest and the largest number of rows that the program accepts."""
    if isinstance(batch, int):
        return batch, batch
    bounds = program.range_constraints.get(batch.node.expr)
    if bounds is None:
        return 1, 1 << 16
    return max(1, int(bounds.lower)), 1 << 16 if bounds.upper > 1 << 16 else int(bounds.upper)
