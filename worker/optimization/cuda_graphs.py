"""CUDA graphs: a forward recorded once for each batch size and launched as one, without the time that launching its
hundreds of kernels one by one takes.

A batch is padded to the next size that was recorded. Source: torch.cuda.CUDAGraph's documentation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import torch

from smartbatch.worker.optimization.variants import Network

WARM_UPS = 3  # forwards before a recording, as torch asks: they choose algorithms and fill caches


class CudaGraphs:
    """Used by the device thread alone. Raises torch.OutOfMemoryError while it is made if the sizes don't fit."""

    def __init__(self, network: Network, example: Callable[[int], torch.Tensor], sizes: Sequence[int]) -> None:
        """`sizes`: rows, ascending; the last is the largest batch there will be. `example(rows)` makes a batch."""
        self._sizes = list(sizes)
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]] = {}
        pool = torch.cuda.graph_pool_handle()
        for size in reversed(self._sizes):  # the largest first: the others live in its memory
            # Recorded on something that is never compared: a graph that answers what it was recorded with is found.
            self._recorded[size] = _record(network, example(size).zero_(), pool)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        rows = len(batch)
        graph, inputs, outputs = self._recorded[self._sizes[bisect_left(self._sizes, rows)]]
        inputs[:rows].copy_(batch)
        graph.replay()
        return outputs[:rows].clone()  # the next replay writes over them


def _record(
    network: Network, inputs: torch.Tensor, pool: Any
) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]:
    """Return the graph, and the tensors that it reads and writes."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UPS):
            network(inputs)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        outputs = network(inputs)
    return graph, inputs, outputs
