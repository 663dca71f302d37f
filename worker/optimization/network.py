"""A network as it serves: on its device, in its dtype, as its fastest variant.

Torchvision's classifiers and users' modules share it. It tries variants only of a network that allows them.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from smartbatch.worker.core.batch_sizes import sizes
from smartbatch.worker.core.device import DTYPES
from smartbatch.worker.core.model import ChosenVariant, LoadContext
from smartbatch.worker.core.user_traceback import one_line
from smartbatch.worker.optimization import inductor, trees, winograd
from smartbatch.worker.optimization.cuda_graphs import CudaGraphs
from smartbatch.worker.optimization.folding import channels_last, fold_batch_norms
from smartbatch.worker.optimization.trees import Tree
from smartbatch.worker.optimization.variants import TIMED_ROWS_CPU, Example, VariantSelector, error_of, seconds

log = logging.getLogger(__name__)


class _OfBatch(nn.Module):
    """Calls a network with a batch: a tensor, or the positional and the named arguments of a call."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tree) -> Tree:
        if isinstance(batch, torch.Tensor):
            return self.network(batch)
        positional, named = batch
        return self.network(*positional, **named)


class ServedNetwork:
    """Is called like its module; what else is asked of it is the module's.

    Owned by a model and used by its device thread only, except `variant`. With a DTYPE of 16 bits the module is
    converted to it, and so are the floats that it gets; the floats that it returns are float32 again.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        dtype: str,
        example: Example,
        uneven: Example | None = None,
    ) -> None:
        """`uneven` makes batches of rows of several sizes, all smaller than `example`'s; None if rows have one shape.

        Both may raise.
        """
        self._module = module
        self._device = device
        self._dtype = dtype
        self._converts = DTYPES[dtype] if dtype != "float32" else None
        self.eager = _OfBatch(module if self._converts is None else module.to(self._converts))
        self.eager.training = module.training
        self._make_example = example
        self._make_uneven = uneven
        self._examples: dict[tuple[Example, int], Tree] = {}
        self._selector: VariantSelector | None = None
        self._form: object = None  # of the batches that variants were checked with
        self._recorded: list[Tree] | None = None

    def __call__(self, *positional: Any, **named: Any) -> Any:
        batch: Tree = (positional, named)
        if len(positional) == 1 and not named and isinstance(positional[0], torch.Tensor):
            (batch,) = positional
        if self._converts is not None:
            batch = trees.on_tensors(self._narrow, batch)
        if self._recorded is not None:
            self._recorded.append(trees.on_tensors(torch.clone, batch))
        if self._selector is not None and trees.form(batch, self.varying) == self._form:
            outputs = self._selector(batch)
        else:
            outputs = self.eager(batch)
        return outputs if self._converts is None else trees.on_tensors(_widen, outputs)

    def __getattr__(self, name: str) -> Any:
        if name == "_module":  # not there while it is being copied
            raise AttributeError(name)
        return getattr(self._module, name)

    def _narrow(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._converts) if tensor.is_floating_point() else tensor

    @property
    def variant(self) -> ChosenVariant:
        """The variant that serves now. Any thread may read it."""
        return self._selector.choice if self._selector else ChosenVariant()

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[Tree]]:
        """Collect copies of the batches that it is called with meanwhile."""
        self._recorded = batches = []
        try:
            yield batches
        finally:
            self._recorded = None

    def example(self, rows: int) -> Tree:
        """Return a copy of the example of so many rows: a network may change its input. Raises ValueError."""
        return self._copy(self._make_example, rows)

    def _uneven(self, rows: int) -> Tree:
        assert self._make_uneven
        return self._copy(self._make_uneven, rows)

    def _copy(self, make: Example, rows: int) -> Tree:
        if (make, rows) not in self._examples:
            batch = make(rows)
            if self._converts is not None:
                batch = trees.on_tensors(self._narrow, batch)
            if not trees.all_rows(batch, rows):
                raise ValueError(f"it gets tensors whose first dimension is not the {rows} rows of the batch")
            if other := trees.unknown(batch):
                raise ValueError(f"it gets a {type(other[0]).__name__}")
            self._examples[make, rows] = batch
        return trees.on_tensors(torch.clone, self._examples[make, rows])

    @functools.cached_property
    def varying(self) -> trees.Dimensions:
        """The dimensions in which batches differ besides the number of rows, such as the length of the longest text."""
        try:
            return trees.differing(self.example(1), self._uneven(1)) if self._make_uneven else set()
        except Exception as error:  # the user's code may raise anything
            log.info("OPTIMIZE: only for batches of the example's shape: smaller rows failed, %s", one_line(error))
            return set()

    @torch.inference_mode()
    def refusal(self) -> str:
        """Return why this network serves eager, one batch at a time; empty if nothing is in the way.

        Variants take another path through memory, or a recorded one: for them, and for batches that overlap, equal
        inputs must give equal outputs, which no later forward changes, by the same operations whatever the values.
        """
        try:
            versions = self._versions()
            first, second = (self.eager(self.example(1)) for _ in range(2))
            if not (trees.only_tensors(first) and trees.all_rows(first, 1)):
                return "its outputs are not all tensors whose first dimension is the rows"
            if not any(map(_varies, trees.tensors(self.example(2)))):
                return "its example is all one value, which shows nothing: example() should return a row like requests'"
            if versions != self._versions():
                return "a forward changes its buffers"
            outputs, again = trees.tensors(first), trees.tensors(second)
            if {_memory(output) for output in outputs} & {_memory(output) for output in again}:
                return "its outputs are overwritten by its next forward"
            dtypes = {tensor.dtype for tensor in itertools.chain(outputs, self.eager.parameters())}
            try:
                error_of(outputs, again, dtypes)
            except ValueError as error:
                return f"the same input gave two outputs (random numbers, or state): {error}"
            self._follow()
        except Exception as error:  # the user's code may raise anything
            return one_line(error)
        return ""

    def _versions(self) -> list[int]:
        """Return how often each buffer was changed in place."""
        return [buffer._version for buffer in self.eager.buffers() if not buffer.is_inference()]

    def _follow(self) -> None:
        """Run a forward on tensors without values, which fails where Python asks for one. Raises ValueError."""
        tensors = itertools.chain(self.eager.parameters(), self.eager.buffers())
        shared: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
        copied = copy.deepcopy(self.eager, shared)  # what it may keep of this forward has no values either
        try:
            with torch.inference_mode(False), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
                copied(trees.on_tensors(mode.from_tensor, self.example(1)))
        except Exception as error:  # of torch, a dozen kinds
            why = one_line(error) if str(error) else type(error).__name__
            raise ValueError(f"its control flow depends on values, or it leaves torch ({why})") from error

    def optimize(self, context: LoadContext) -> None:
        """Select the fastest variant of a network without a refusal()."""
        rows = min(TIMED_ROWS_CPU, context.max_batch_size) if self._device.type == "cpu" else context.max_batch_size
        selector = VariantSelector(self.eager, self.example, rows, self._uneven if self.varying else None)
        self._form = trees.form(self.example(1), self.varying)
        self._selector = selector
        for name, make in self.candidates(rows, context.max_batch_size):
            context.progress(f"trying {name}")
            for _ in selector.consider(name, make):
                pass
        self._try_inductor(selector, context)
        self._examples.clear()
        context.progress(f"serving as {selector.choice}")

    def candidates(self, rows: int, max_rows: int) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Return by name what makes each variant but Inductor. They serve up to `max_rows` rows."""
        network, example = self.eager, self.example
        fastest: Callable[[], Any] = lambda: network  # noqa: E731
        if self._has(nn.Conv2d):
            fastest = lambda: channels_last(network)  # noqa: E731
            yield "channels_last", fastest
        if self._has(nn.Conv2d) and self._has(nn.BatchNorm2d):
            fastest = lambda: channels_last(fold_batch_norms(network, example(1)))  # noqa: E731
            yield "folded channels_last", fastest
        if self._device.type == "cuda" and not self.varying:
            yield "CUDA graphs", lambda: CudaGraphs(fastest(), example, sizes(max_rows))
        if winograd.possible(network):
            yield winograd.NAME, lambda: winograd.winograd(network, example(rows))

    def _has(self, kind: type[nn.Module]) -> bool:
        return any(isinstance(module, kind) for module in self.eager.modules())

    def _try_inductor(self, selector: VariantSelector, context: LoadContext) -> None:
        """Try the library that an earlier start compiled; if there is none, compile it while serving."""
        if self._device.type not in inductor.DEVICES or not context.model_path:
            return
        with torch.inference_mode():
            if seconds(self.eager, self.example(1)) < inductor.WORTHWHILE_S:
                return
        try:
            folder = inductor.cache_folder() / self.key()
        except OSError as error:
            log.warning("OPTIMIZE: %s is skipped: %s", inductor.NAME, error)
            return
        threads = torch.get_num_threads()
        job = inductor.CompileJob(
            context.model_path, str(self._device), context.dtype, context.weights, threads, str(folder)
        )
        compiled = inductor.Inductor(selector, job, self.eager, self.example)
        if compiled.cached:
            context.progress(f"trying {inductor.NAME}")
            for _ in compiled.consider():
                pass
        elif context.in_device_thread:
            compiled.compile_in_background(context.in_device_thread)

    def key(self) -> str:
        """Return a hash of everything that compiled code depends on."""
        form = trees.form(self.example(1), self.varying)
        return inductor.key(self.eager, form, self._dtype, self._device)


def _widen(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _varies(tensor: torch.Tensor) -> bool:
    return bool(tensor.numel() and (tensor != tensor.flatten()[0]).any())


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr() or id(tensor)  # an empty tensor has none
