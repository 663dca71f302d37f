"""Select the fastest variant of a network whose outputs match those of the eager network.

Everything runs in the device thread, one forward at a time. `consider` is a generator that yields between forwards, so
that it can run to its end while loading, or step by step between the batches of a serving worker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable

import torch
from torch import nn

from smartbatch.worker.core.device_errors import is_out_of_memory
from smartbatch.worker.core.model import ChosenVariant
from smartbatch.worker.core.user_traceback import one_line
from smartbatch.worker.optimization import trees
from smartbatch.worker.optimization.trees import Tree

log = logging.getLogger(__name__)

Network = Callable[[Tree], Tree]
Example = Callable[[int], Tree]  # makes a batch of so many rows like those of requests

EAGER = ChosenVariant("eager")
TIMED_ROWS_CPU = 4  # on a CPU the time grows with the rows, and timing delays the start

# Relative to the largest output. float32 is what docs promise; the others are about eight roundings of the type.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 8e-3, torch.bfloat16: 6e-2}

ROUNDS = 3  # measurements of each network; the shortest counts
SLOW_ROW_S = 0.25  # slower networks are timed with a single row, because loading waits for it


class VariantSelector:
    """Calls the fastest variant that passed. Owned by the model; used by the device thread only.

    A candidate that can't be built, deviates or is no faster is logged and skipped.
    """

    def __init__(self, eager: nn.Module, example: Example, rows: int, uneven: Example | None = None) -> None:
        """Candidates are timed with `rows` rows. They must work for `uneven` batches too, if there are any."""
        self._eager: Network = eager
        self._dtypes = {tensor.dtype for tensor in eager.parameters()}
        self._example = example
        self._uneven = uneven
        self._rows = rows
        self._reference: dict[tuple[Example, int], list[torch.Tensor]] = {}  # the eager outputs
        self._serving: Network = eager
        self.choice = EAGER

    def __call__(self, batch: Tree) -> Tree:
        """Run the variant. If it raises and the eager network does not, use the eager network from then on."""
        if self._serving is self._eager:
            return self._eager(batch)
        try:
            return self._serving(batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise  # the engine halves the batch
            why = one_line(error)
        outputs = self._eager(batch)  # raises too if the batch or the device is at fault
        log.error(
            "OPTIMIZE: %s failed on %d rows and is not used any more: %s", self.choice.name, trees.rows_of(batch), why
        )
        self._serving, self.choice = self._eager, EAGER
        return outputs

    @torch.inference_mode()
    def consider(self, name: str, make: Callable[[], Network]) -> Generator[None, None, bool]:
        """Select the network that `make` returns if its outputs match and it is faster. Yields between forwards.

        Returns whether it failed; a slower one has not failed.
        """
        try:
            candidate = make()
            yield
            error = 0.0
            checked = [(self._example, 1), (self._example, self._timed_rows())]
            if self._uneven:
                checked.append((self._uneven, self._timed_rows()))
            for example, rows in checked:
                error = max(error, self._error_of(candidate, example, rows))
                yield
            eager_s, serving_s, candidate_s = yield from self._race(self._eager, self._serving, candidate)
        except Exception as failure:  # compilers and users' networks may raise anything
            log.warning("OPTIMIZE: %s is skipped: %s", name, one_line(failure))
            return True
        gain = eager_s / candidate_s
        log.info("OPTIMIZE: %s is %.2f times as fast as eager, relative error %.1e", name, gain, error)
        if candidate_s < min(serving_s, eager_s):
            self._serving = candidate
            self.choice = ChosenVariant(name, gain, error)
        return False

    def _timed_rows(self) -> int:
        if (self._example, 1) not in self._reference:
            self._eager_outputs(self._example, 1)  # the first forward of a process is slow
            started = time.perf_counter()
            self._reference.clear()
            self._eager_outputs(self._example, 1)
            if time.perf_counter() - started > SLOW_ROW_S:
                self._rows = 1
        return self._rows

    def _eager_outputs(self, example: Example, rows: int) -> list[torch.Tensor]:
        if (example, rows) not in self._reference:
            outputs = trees.tensors(self._eager(example(rows)))
            if not all(output.isfinite().all() for output in outputs):
                raise ValueError("the eager network's outputs aren't finite, so nothing can be compared with them")
            self._reference[example, rows] = [output.cpu() for output in outputs]
        return self._reference[example, rows]

    def _error_of(self, candidate: Network, example: Example, rows: int) -> float:
        """Return the largest deviation relative to the largest output. Raises ValueError beyond the tolerance."""
        batch = example(rows)
        expected = self._eager_outputs(example, rows)
        dtypes = {tensor.dtype for tensor in (*trees.tensors(batch), *expected)} | self._dtypes
        return error_of(expected, trees.tensors(candidate(batch)), dtypes)

    def _race(self, *networks: Network) -> Generator[None, None, list[float]]:
        """Return the shortest time of each network. They take turns, so a slowdown of the machine affects all."""
        rows = self._timed_rows()
        shortest_s = dict.fromkeys(networks, float("inf"))  # the serving network may be the eager one
        for _ in range(ROUNDS):
            for network in shortest_s:
                shortest_s[network] = min(shortest_s[network], seconds(network, self._example(rows)))
                yield
        return [shortest_s[network] for network in networks]


def error_of(expected: list[torch.Tensor], outputs: list[torch.Tensor], dtypes: Iterable[torch.dtype]) -> float:
    """Return the largest deviation relative to the largest value of its tensor.

    Raises ValueError beyond the tolerance of the least precise of `dtypes`, and for other shapes or dtypes.
    """
    tolerance = max((TOLERANCE[dtype] for dtype in dtypes if dtype in TOLERANCE), default=TOLERANCE[torch.float32])
    if len(outputs) != len(expected):
        raise ValueError(f"{len(outputs)} outputs instead of {len(expected)}")
    largest = 0.0
    for wanted, output in zip(expected, outputs, strict=True):
        if output.shape != wanted.shape or output.dtype != wanted.dtype:
            raise ValueError(
                f"outputs of shape {list(output.shape)} instead of {list(wanted.shape)}"
                if output.shape != wanted.shape
                else f"outputs of {output.dtype} instead of {wanted.dtype}"
            )
        if not wanted.numel():
            continue
        if not wanted.dtype.is_floating_point:
            error = 0.0 if torch.equal(output.cpu(), wanted.cpu()) else float("inf")
        else:
            wanted = wanted.cpu().float()
            error = float((output.cpu().float() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
        if not error <= tolerance:  # also true of NaN
            raise ValueError(f"its outputs deviate by {error:.1e} of the largest, the tolerance is {tolerance:.0e}")
        largest = max(largest, error)
    return largest


def seconds(network: Network, batch: Tree) -> float:
    """Time one forward."""
    # on a CPU the CPU time of this thread, since wall time would include other processes
    clock = time.thread_time if trees.tensors(batch)[0].device.type == "cpu" else time.perf_counter
    started = clock()
    for output in trees.tensors(network(batch)):
        output.cpu()  # waits for the device
    return clock() - started
