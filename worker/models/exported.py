"""Programs saved by torch.export (`.pt2`): one tensor in, one or more tensors out.

The first dimension is the batch. Where the program bounds its size, batches are split and padded to fit.
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
from smartbatch.worker.core.model import LoadContext, Model
from smartbatch.worker.core.tensors import from_numpy, to_numpy, to_torch
from smartbatch.worker.core.user_traceback import one_line

RowOutput = dict[str, np.ndarray]


class Exported(Model):
    """A row is a torch tensor of the program's dtype and shape, without the batch dimension."""

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
        if self._device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, self._device)
        self._network = program.module()
        outputs = self.separate(self.forward(self.collate([self.example()])), 1)[0]
        self.outputs = tuple(OutputSpec(name, str(row.dtype), row.shape) for name, row in outputs.items())
        self.device_name = devices.device_name(self._device)
        if self._smallest > 1 or self._largest < context.max_batch_size:
            context.progress(
                f"{self._path} accepts {self._smallest} to {self._largest} rows: batches are split and padded to fit"
            )

    def _read_input(self, program: torch.export.ExportedProgram) -> None:
        names = program.graph_signature.user_inputs
        values = [node.meta.get("val") for node in program.graph.nodes if node.name in names]
        if len(values) != 1 or not isinstance(values[0], torch.Tensor) or not values[0].dim():
            raise ModelLoadError(
                f"expected a program with one input, a tensor whose first dimension is the batch, but {self._path} "
                f"has {len(names)}: {', '.join(map(str, names))}"
            )
        batch, *row = values[0].shape
        self._smallest, self._largest = _bounds(program, batch)
        self._dtype = values[0].dtype
        shape = tuple(size if isinstance(size, int) else -1 for size in row)
        self.input = InputSpec(("tensor",), str(self._dtype).removeprefix("torch."), shape)

    def example(self) -> torch.Tensor:
        assert self.input.shape is not None
        return torch.zeros([max(size, 2) if size < 0 else size for size in self.input.shape], dtype=self._dtype)

    def decode(self, payload: Payload) -> list[torch.Tensor]:
        content: Any = payload.content
        expected = self.input.shape
        assert expected is not None
        if payload.kind != "tensor":
            raise InvalidInput(f"expected a tensor, got {payload.kind}")
        rows = to_torch(content)  # (rows, …)
        if self._dtype.is_floating_point and rows.dtype.is_floating_point:
            rows = rows.to(self._dtype)  # JSON numbers have no precision of their own
        if rows.dtype != self._dtype:
            raise InvalidInput(f"expected a tensor of dtype {self.input.dtype}, got {content.dtype}")
        shape = tuple(rows.shape[1:])
        if len(shape) != len(expected) or any(e not in (-1, s) for e, s in zip(expected, shape, strict=True)):
            raise InvalidInput(f"expected a tensor of shape {['rows', *expected]}, got {list(rows.shape)}")
        return list(rows)

    def group(self, row: torch.Tensor) -> Hashable:
        return row.dtype, row.shape

    def collate(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        return devices.stack_on(self._device, rows)  # (rows, …)

    @torch.inference_mode()
    def forward(self, batch: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        return [self._run(part) for part in batch.split(min(self._largest, len(batch)))]

    def _run(self, part: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = len(part)
        if rows < self._smallest:
            part = torch.cat([part, part[-1:].expand(self._smallest - rows, *part.shape[1:])])
        return {name: output[:rows] for name, output in _named(self._network(part)).items()}

    def separate(self, outputs: list[dict[str, torch.Tensor]], rows: int) -> list[RowOutput]:
        arrays = {name: np.concatenate([to_numpy(part[name]) for part in outputs]) for name in outputs[0]}
        return [{name: array[row] for name, array in arrays.items()} for row in range(rows)]

    def free_memory(self) -> None:
        devices.free_memory()

    def device_memory(self) -> dict[str, int]:
        return devices.memory(self.device_name)

    def device_works(self) -> bool:
        return devices.works(self._device)

    def encode(self, rows: Sequence[RowOutput], options: dict[str, Any]) -> Result:
        return Result(outputs={name: from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]})


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
