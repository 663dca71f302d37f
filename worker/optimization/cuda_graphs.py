"""CUDA graphs: a forward is recorded once per batch size and replayed with one launch instead of hundreds.

A batch is padded to the next recorded size. Source: torch.cuda.CUDAGraph's documentation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import torch

from smartbatch.worker.optimization import trees
from smartbatch.worker.optimization.trees import Tree
from smartbatch.worker.optimization.variants import Network

WARM_UPS = 3  # forwards before a recording, as torch requires: they select algorithms and fill caches


class CudaGraphs:
    """Used by the device thread only. Its constructor raises torch.OutOfMemoryError if the sizes don't fit."""

    def __init__(self, network: Network, example: Callable[[int], Tree], sizes: Sequence[int]) -> None:
        """`sizes`: rows, ascending; the last is the largest batch that will run. `example(rows)` makes a batch."""
        self._sizes = list(sizes)
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tree, Tree]] = {}
        pool = torch.cuda.graph_pool_handle()
        for size in reversed(self._sizes):  # largest first: the others reuse its memory
            # Recorded on zeros, on which outputs are never compared, so a graph that ignores its inputs is detected.
            self._recorded[size] = _record(network, trees.on_tensors(torch.Tensor.zero_, example(size)), pool)

    def __call__(self, batch: Tree) -> Tree:
        rows = trees.rows_of(batch)
        graph, inputs, outputs = self._recorded[self._sizes[bisect_left(self._sizes, rows)]]
        for recorded, given in zip(trees.tensors(inputs), trees.tensors(batch), strict=True):
            recorded[:rows].copy_(given)
        graph.replay()
        return trees.on_tensors(lambda output: output[:rows].clone(), outputs)  # the next replay overwrites them


def _record(network: Network, inputs: Tree, pool: Any) -> tuple[torch.cuda.CUDAGraph, Tree, Tree]:
    """Return the graph and the tensors that it reads and writes."""
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(WARM_UPS):
            network(inputs)
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        outputs = network(inputs)
    return graph, inputs, outputs
