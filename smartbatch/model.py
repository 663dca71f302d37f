"""The protocol of a user's model, and `serve`, which serves it from Python."""

from __future__ import annotations

import difflib
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from smartbatch.shared.errors import SettingsError
from smartbatch.shared.wire import Tensor

if TYPE_CHECKING:
    import torch


class Model(Protocol):
    """A class that SmartBatch can serve. Only `forward` is required.

    The others are optional and called in this order (docs/your-model.md has examples):

    - `input: InputSpec`, `outputs: tuple[OutputSpec, ...]`: announced to gateways, which then reject other input early.
      With a dict of InputSpecs by name `decode` gets a dict of payloads, a row is a dict by default, and `forward` gets
      a dict of batches, or these as keyword arguments if it has one of each name.
    - `load(self, device: torch.device)`: called once, in the thread that will call `forward`.
    - `example(self)`: returns one row to warm up with. Default: zeros of `input`'s shape.
    - `decode(self, payload: Payload) -> list[row]`: a request's payload → rows, in several threads at once. Raise
      InvalidInput (or ValueError) with a text for the client. Default: a torch tensor per row, a str per text, bytes
      per image, the bytes of any other body.
    - `group(self, row)`: returns a key; rows with equal keys run together. Default: by shape and dtype.
    - `network(self)`: returns an nn.Module that takes the place of `forward`; or `load` sets `self.network`, which
      `forward` calls. Such a network gets the variants of OPTIMIZE, and DTYPE.
    - `overlaps: bool`: whether the next forward may start while outputs are being copied to the host.
    - `collate(self, rows) -> batch`: a list of rows → one batch. Default: tensors are stacked on the device.
    - `encode(self, row_output)`: one row's output → a tensor, an array, or anything that JSON can represent, for the
      client; in several threads at once. Default: the output unchanged.
    """

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """Run one batch, which is the only argument, by default a tensor of shape (rows, …) on the device. A model with
        several inputs may have an argument for each name instead.

        Returns a tensor or array of shape (rows, …), a dict or tuple of such, or a list with one output per row.
        """
        ...


def serve(model: type[Model], *, port: int = 8000, workers: int = 1, **settings: Any) -> None:
    """Serve a class on this machine until Ctrl-C, as `smartbatch up` does: broker, gateway and workers.

    Call it from the file that defines the class, under `if __name__ == "__main__":`, since workers import that file.
    `settings` are those that `smartbatch settings` lists, in lower case: `max_batch_size=64, max_wait_time=0.005`. Ends
    the process: exit code 0 after a drain, 2 with one line if something can't start. Raises SettingsError for an
    unknown setting.
    """
    from smartbatch.deploy.cli import main
    from smartbatch.shared.settings import Settings

    for name, value in settings.items():
        if name not in Settings.__struct_fields__:
            near = difflib.get_close_matches(name, Settings.__struct_fields__, n=1)
            raise SettingsError(f"serve() has no setting {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
        os.environ[name.upper()] = str(value)
    path = f"{Path(inspect.getfile(model)).absolute()}:{model.__qualname__}"
    main(["up", "--model", path, "--port", str(port), "--workers", str(workers)])


def to_torch(tensor: Tensor) -> torch.Tensor:
    """Convert a payload's tensor to a torch tensor on the CPU, of the same shape and dtype."""
    from smartbatch.worker.core.tensors import to_torch as convert

    return convert(tensor)
