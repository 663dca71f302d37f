"""What the worker asks of a model, in the order in which it asks.

    load       once, in the device thread; may take minutes, so it reports progress
    example    once per warm-up: a row like those that will come
    decode     per request, in a decode thread, while the batch is still filling
    group      per row: rows of one group can be collated
    collate    per batch, in the device thread
    forward    per batch, in the device thread; may return before the device is done, if the model `overlaps`
    separate   per batch, in the device thread, or in the landing thread if the model `overlaps`: waits for the
               outputs; back on the host, one per row
    encode     per request, in a decode thread, or in the one that has the outputs

A row is whatever `decode` makes and `collate` takes. Rows never know which batch they ride in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import msgspec

from smartbatch.shared.model_info import InputSpec, ModelInfo, OutputSpec
from smartbatch.shared.wire import Payload, Result

Row = Any
Batch = Any
RowOutput = Any


class LoadContext(msgspec.Struct):
    """What a model needs to load. `progress(text)` shows what is going on to whoever waits."""

    device: str = "auto"
    dtype: str = "float32"
    optimize: str = "none"
    weights: str = "default"
    torch_threads: int = 0
    max_image_pixels: int = 50_000_000
    max_batch_size: int = 32
    decode_threads: int = 1
    progress: Callable[[str], None] = lambda text: None
    model_path: str = ""
    in_device_thread: Callable[[Callable[[], None]], None] | None = None  # for what comes after loading


class ChosenVariant(msgspec.Struct, frozen=True):
    """In which form a network serves: its name, and how it compares with the one as it was built."""

    name: str = "none"
    gain: float = 1.0  # forwards in the time of one eager forward
    error: float = 0.0  # relative to the largest output

    def __str__(self) -> str:
        return self.name if self.gain == 1.0 else f"{self.name} {self.gain:.2f}x"


class Model(ABC):
    """One loaded model; owned by the engine. Everything but `decode`, `group`, `encode` and, if it `overlaps`,
    `separate` is called by the device thread alone; the first three must be safe in several threads at once."""

    overlaps: bool = False  # a forward may be begun before the outputs of the one before were waited for
    input: InputSpec
    outputs: tuple[OutputSpec, ...] = ()
    classifier: bool = False
    platform: str = "pytorch"
    device_name: str = "cpu"

    def info(self, name: str, path: str, max_batch_size: int) -> ModelInfo:
        """What gateways are told of it; once it is loaded."""
        return ModelInfo(name, path, self.input, max_batch_size, self.outputs, self.classifier, self.platform)

    @property
    def variant(self) -> ChosenVariant:
        """The form that serves now; it may change while serving, and any thread may ask."""
        return ChosenVariant()

    @abstractmethod
    def load(self, context: LoadContext) -> None:
        """Make ready to run. Raises ModelLoadError with one clear line that names the choices."""

    @abstractmethod
    def example(self) -> Row | None:
        """Return a row to warm up with, or None if there is none: then there is no warm-up."""

    @abstractmethod
    def decode(self, payload: Payload) -> list[Row]:
        """Turn what a client sent into rows. Raises InvalidInput: what was expected, what came."""

    def group(self, row: Row) -> Hashable:
        """Return a key that is equal for rows that can be collated."""
        return None

    @abstractmethod
    def collate(self, rows: Sequence[Row]) -> Batch:
        """Make one batch, on the device, of rows of one group."""

    @abstractmethod
    def forward(self, batch: Batch) -> Any: ...

    @abstractmethod
    def separate(self, outputs: Any, rows: int) -> list[RowOutput]:
        """Copy the outputs back and cut them into one per row."""

    def free_memory(self) -> None:  # noqa: B027 - nothing to do on most devices
        """Give cached device memory back; called after the device ran out of it."""

    def device_memory(self) -> dict[str, int]:
        """Bytes of the device's memory by state, as in DEVICE_MEMORY; nothing where they aren't known. Any thread may
        ask, at any time."""
        return {}

    def device_works(self) -> bool:
        """Try the device; called after an error that came from it. False if nothing runs there any more."""
        return True

    @abstractmethod
    def encode(self, rows: Sequence[RowOutput], options: dict[str, Any]) -> Result:
        """Turn the outputs of one request's rows into its result."""
