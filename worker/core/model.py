"""The model interface. The worker calls its methods in this order:

    load       once, in the device thread; may take minutes, so it reports progress
    example    once, for warm-up: a row like those of requests
    decode     per request, in a decode thread, while the batch is still filling
    size       per row, in a decode thread, if the model is `sized`: what it costs depends on it
    group      per row: rows with equal keys can be collated
    collate    per batch, in the device thread
    forward    per batch, in the device thread; may return before the device is done, if the model `overlaps`
    separate   per batch, in the device thread, or in the completion thread if the model `overlaps`: waits for the
               outputs, copies them to the host and cuts them into one per row
    encode     per request, in a decode thread or one of the device's threads

A row is whatever `decode` returns and `collate` accepts. Rows know nothing about the batch that they run in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import msgspec

from smartbatch.shared.model_info import InputSpec, ModelInfo, OutputSpec
from smartbatch.shared.settings import Settings
from smartbatch.shared.wire import Payload, Result

Row = Any
Batch = Any
RowOutput = Any

INPUTS = InputSpec(("inputs",))


class LoadContext(msgspec.Struct):
    """What a model needs to load. `progress(text)` reports what it is doing."""

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
    in_device_thread: Callable[[Callable[[], None]], None] | None = None  # runs work between batches, after loading

    @classmethod
    def of(cls, settings: Settings, **more: Any) -> LoadContext:
        """Return the context of these settings; `more` has the other fields."""
        fields: dict[str, Any] = {
            "device": settings.device,
            "dtype": settings.dtype,
            "optimize": settings.optimize,
            "weights": settings.model_weights,
            "torch_threads": settings.torch_threads,
            "max_image_pixels": settings.max_image_pixels,
            "max_batch_size": settings.max_batch_size,
            "model_path": settings.model_path,
        }
        return cls(**{**fields, **more})


class ChosenVariant(msgspec.Struct, frozen=True):
    """The variant of a network that serves, compared with the network as it was built (eager)."""

    name: str = "none"
    gain: float = 1.0  # forwards in the time of one eager forward
    error: float = 0.0  # largest deviation, relative to the largest output

    def __str__(self) -> str:
        return self.name if self.gain == 1.0 else f"{self.name} {self.gain:.2f}x"


class Model(ABC):
    """One loaded model, owned by the engine.

    `decode`, `group` and `encode` must be safe in several threads at once. Only the device thread calls the
    others, except `separate` of a model that `overlaps`.
    """

    sized: bool = False  # rows differ in size: `size` is called for each of them
    overlaps: bool = False  # the next forward may be launched before the outputs of this one were waited for
    input: InputSpec
    inputs: tuple[InputSpec, ...] = ()  # of a model that takes several, by name; then `input` is INPUTS
    outputs: tuple[OutputSpec, ...] = ()
    classifier: bool = False
    platform: str = "pytorch"
    device_name: str = "cpu"
    compute_dtype: str = "float32"  # the least precise one

    files: tuple[str, ...] = ()  # the code or weights that make this model another one if they change

    def info(self, name: str, path: str, max_batch_size: int, fingerprint: str = "") -> ModelInfo:
        """Return the description of the loaded model that is announced to gateways."""
        return ModelInfo(
            name,
            path,
            self.input,
            max_batch_size,
            self.outputs,
            self.classifier,
            self.platform,
            fingerprint,
            self.inputs,
        )

    @property
    def variant(self) -> ChosenVariant:
        """The variant that serves now. It may change while serving; any thread may read it."""
        return ChosenVariant()

    @property
    def device_id(self) -> str:
        """A name of the device that is the same in all processes of this host, once loaded; empty if it is this
        worker's own. It is part of a file's name."""
        return ""

    @abstractmethod
    def load(self, context: LoadContext) -> None:
        """Make the model ready to run. Raises ModelLoadError with one line that names the choices."""

    @abstractmethod
    def example(self) -> Row | None:
        """Return a row for warm-up, or None for no warm-up."""

    @abstractmethod
    def decode(self, payload: Payload) -> list[Row]:
        """Turn a payload into rows. Raises InvalidInput that names the expected and the actual input."""

    @abstractmethod
    def group(self, row: Row) -> Hashable:
        """Return a key. Rows with equal keys can be collated."""

    def size(self, row: Row) -> int:
        """Return the length to which a batch of this row alone is padded, at least 1: tokens of a text, samples of a
        sound. Called in decode threads."""
        return 1

    @abstractmethod
    def collate(self, rows: Sequence[Row]) -> Batch:
        """Make one batch, on the device, of rows of one group."""

    @abstractmethod
    def forward(self, batch: Batch) -> Any: ...

    @abstractmethod
    def separate(self, outputs: Any, rows: int) -> list[RowOutput]:
        """Copy the outputs to the host and cut them into one per row."""

    def free_memory(self) -> None:  # noqa: B027 - nothing to do on most devices
        """Return cached device memory; called after the device ran out of it."""

    def device_memory(self) -> dict[str, int]:
        """Return bytes of device memory by state (one of DEVICE_MEMORY.values); empty where unknown. Any thread may
        call it at any time."""
        return {}

    def device_works(self) -> bool:
        """Test the device after an error that came from it. Returns False if it can't be used any more."""
        return True

    @abstractmethod
    def encode(self, rows: Sequence[RowOutput], options: dict[str, Any]) -> Result:
        """Turn the outputs of one request's rows into its result."""
