"""Select the fastest variant of a network whose outputs match those of the eager network.

Everything runs in the device thread, one forward at a time. `consider` is a generator that yields between forwards, so
that it can run to its end while loading, or step by step between the batches of a serving worker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator

import torch
from torch import nn

from smartbatch.worker.core.device_errors import is_out_of_memory
from smartbatch.worker.core.model import ChosenVariant
from smartbatch.worker.core.user_traceback import one_line

log = logging.getLogger(__name__)

Network = Callable[[torch.Tensor], torch.Tensor]

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

    def __init__(self, eager: nn.Module, example: Callable[[int], torch.Tensor], rows: int) -> None:
        """`example(rows)` makes a batch like those of requests; candidates are timed with `rows` rows."""
        self._eager: Network = eager
        self._example = example
        self._rows = rows
        self._reference: dict[int, torch.Tensor] = {}  # by rows: the eager outputs for the example
        self._fallback: Network | None = None
        self._serving: Network = eager
        self.choice = EAGER

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        if self._fallback is None:
            return self._serving(batch)
        return self._run_compiled(batch, self._fallback)

    def _run_compiled(self, batch: torch.Tensor, fallback: Network) -> torch.Tensor:
        """Run the compiled variant. If it raises and the eager network does not, use the eager network from then on."""
        try:
            return self._serving(batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise  # the engine halves the batch
            why = one_line(error)
        outputs = fallback(batch)  # raises too if the batch or the device is at fault
        log.error("the compiled network failed on %d rows and is not used any more: %s", len(batch), why)
        self._serving, self._fallback = fallback, None
        self.choice = EAGER
        return outputs

    @torch.inference_mode()
    def consider(
        self, name: str, make: Callable[[], Network], *, compiled: bool = False
    ) -> Generator[None, None, bool]:
        """Select the network that `make` returns if its outputs match and it is faster. Yields between forwards.

        Returns whether it failed; a slower one has not failed.
        """
        try:
            candidate = make()
            yield
            error = 0.0
            for rows in (1, self._timed_rows()):
                error = max(error, self._error_of(candidate, rows))
                yield
            eager_s, serving_s, candidate_s = yield from self._race(self._eager, self._serving, candidate)
        except Exception as failure:  # compilers and users' networks may raise anything
            log.warning("OPTIMIZE: %s is skipped: %s", name, one_line(failure))
            return True
        gain = eager_s / candidate_s
        log.info("OPTIMIZE: %s is %.2f times as fast as eager, relative error %.1e", name, gain, error)
        if candidate_s < serving_s:
            self._fallback = self._eager if compiled else None
            self._serving = candidate
            self.choice = ChosenVariant(name, gain, error)
        return False

    def _timed_rows(self) -> int:
        if 1 not in self._reference:
            self._eager_outputs(1)  # the first forward of a process is slow
            started = time.perf_counter()
            self._reference.clear()
            self._eager_outputs(1)
            if time.perf_counter() - started > SLOW_ROW_S:
                self._rows = 1
        return self._rows

    def _eager_outputs(self, rows: int) -> torch.Tensor:
        if rows not in self._reference:
            outputs = self._eager(self._example(rows)).float()  # (rows, …) float32
            if not outputs.isfinite().all():
                raise ValueError("the eager network's outputs aren't finite, so nothing can be compared with them")
            self._reference[rows] = outputs.cpu()
        return self._reference[rows]

    def _error_of(self, candidate: Network, rows: int) -> float:
        """Return the largest deviation relative to the largest output. Raises ValueError beyond the tolerance."""
        batch = self._example(rows)
        expected = self._eager_outputs(rows)
        outputs = candidate(batch)
        if outputs.shape != expected.shape:
            raise ValueError(f"outputs of shape {list(outputs.shape)} instead of {list(expected.shape)}")
        error = float((outputs.float().cpu() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        tolerance = TOLERANCE[batch.dtype]
        if not error <= tolerance:  # also true of NaN
            raise ValueError(f"its outputs deviate by {error:.1e} of the largest, the tolerance is {tolerance:.0e}")
        return error

    def _race(self, *networks: Network) -> Generator[None, None, list[float]]:
        """Return the shortest time of each network. They take turns, so a slowdown of the machine affects all."""
        batch = self._example(self._timed_rows())
        shortest_s = dict.fromkeys(networks, float("inf"))  # the serving network may be the eager one
        for _ in range(ROUNDS):
            for network in shortest_s:
                shortest_s[network] = min(shortest_s[network], seconds(network, batch))
                yield
        return [shortest_s[network] for network in networks]


def seconds(network: Network, batch: torch.Tensor) -> float:
    """Time one forward."""
    # on a CPU the CPU time of this thread, since wall time would include other processes
    clock = time.thread_time if batch.device.type == "cpu" else time.perf_counter
    started = clock()
    network(batch).cpu()  # waits for the device
    return clock() - started
