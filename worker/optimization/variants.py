"""The fastest form of a network that still answers as it did: candidates are checked against the eager one and timed.

Everything runs in the device thread, one forward at a time: what considers a candidate is a generator that yields
between forwards, so it can be run through while loading, or a step at a time between the batches of a serving worker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator

import torch
from torch import nn

from smartbatch.worker.core.device_errors import is_out_of_memory
from smartbatch.worker.core.model import ChosenVariant
from smartbatch.worker.core.weights import one_line

log = logging.getLogger(__name__)

Network = Callable[[torch.Tensor], torch.Tensor]

EAGER = ChosenVariant("eager")
TIMED_ROWS_CPU = 4  # a CPU's time grows with the rows, and all timing delays the start

# Relative to the largest output. float32 is what is promised; the others are about eight roundings of their type.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 8e-3, torch.bfloat16: 6e-2}

ROUNDS = 3  # the least time of so many counts
SLOW_ROW_S = 0.25  # from here on a network is timed with a single row, for loading is waited for


class VariantSelector:
    """Calls the fastest network that passed. Owned by the model; used by the device thread alone.

    A candidate that fails, whether it can't be made, answers something else or is no faster, is logged and left out.
    """

    def __init__(self, eager: nn.Module, example: Callable[[int], torch.Tensor], rows: int) -> None:
        """`example(rows)` makes a batch like those that will come; candidates are timed with `rows` of them."""
        self._eager: Network = eager
        self._example = example
        self._rows = rows
        self._reference: dict[int, torch.Tensor] = {}  # rows → what the eager network answers to the example
        self._fallback: Network | None = None
        self._serving: Network = eager
        self.choice = EAGER

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        if self._fallback is None:
            return self._serving(batch)
        return self._run_compiled(batch, self._fallback)

    def _run_compiled(self, batch: torch.Tensor, fallback: Network) -> torch.Tensor:
        """Run what was compiled; if it raises and torch's own code doesn't, that serves from then on."""
        try:
            return self._serving(batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise  # the engine halves the batch
            why = one_line(error)
        outputs = fallback(batch)  # raises too if it was the batch's fault, or the device's
        log.error("the compiled network failed on %d rows and serves no more: %s", len(batch), why)
        self._serving, self._fallback = fallback, None
        self.choice = EAGER
        return outputs

    @torch.inference_mode()
    def consider(
        self, name: str, make: Callable[[], Network], *, compiled: bool = False
    ) -> Generator[None, None, bool]:
        """Serve with what `make` returns from then on, if it is right and faster. Yields between forwards.

        Returns whether it was refused because it failed.
        """
        try:
            candidate = make()
            yield
            error = 0.0
            for rows in (1, self._timed_rows()):
                error = max(error, self._error_of(candidate, rows))
                yield
            eager_s, serving_s, candidate_s = yield from self._race(self._eager, self._serving, candidate)
        except Exception as failure:  # compilers and other people's networks raise anything
            log.warning("OPTIMIZE: %s is left out: %s", name, one_line(failure))
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
            self._answer(1)  # the first forward of a process is slow
            started = time.perf_counter()
            self._reference.clear()
            self._answer(1)
            if time.perf_counter() - started > SLOW_ROW_S:
                self._rows = 1
        return self._rows

    def _answer(self, rows: int) -> torch.Tensor:
        if rows not in self._reference:
            answer = self._eager(self._example(rows)).float()
            if not answer.isfinite().all():
                raise ValueError("there is nothing to compare with: the eager network's outputs aren't finite")
            self._reference[rows] = answer.cpu()
        return self._reference[rows]

    def _error_of(self, candidate: Network, rows: int) -> float:
        """Return the largest difference relative to the largest output. Raises ValueError if that is too much."""
        batch = self._example(rows)
        expected = self._answer(rows)
        came = candidate(batch)
        if came.shape != expected.shape:
            raise ValueError(f"outputs of shape {list(came.shape)} instead of {list(expected.shape)}")
        error = float((came.float().cpu() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        allowed = TOLERANCE[batch.dtype]
        if not error <= allowed:  # NaN neither
            raise ValueError(f"its outputs are off by {error:.1e} of the largest, allowed is {allowed:.0e}")
        return error

    def _race(self, *networks: Network) -> Generator[None, None, list[float]]:
        """Return the least time of each, all by turns: a machine that is slow for a moment is slow for all."""
        batch = self._example(self._timed_rows())
        least_s = dict.fromkeys(networks, float("inf"))  # what serves may be eager itself
        for _ in range(ROUNDS):
            for network in least_s:
                least_s[network] = min(least_s[network], seconds(network, batch))
                yield
        return [least_s[network] for network in networks]


def seconds(network: Network, batch: torch.Tensor) -> float:
    # a CPU's own time, as far as it was this thread's: wall time would measure what else the machine is doing
    clock = time.thread_time if batch.device.type == "cpu" else time.perf_counter
    started = clock()
    network(batch).cpu()  # waits for the device
    return clock() - started
