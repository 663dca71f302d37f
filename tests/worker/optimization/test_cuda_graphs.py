"""CUDA graphs and copies that overlap, on a real device."""

from __future__ import annotations

import pytest
import torch

from smartbatch.shared.telemetry.metric_names import DEVICE_MEMORY
from smartbatch.worker.core.device import AsyncHostCopy, copy_back, device_name, memory, stack_on
from smartbatch.worker.optimization.cuda_graphs import CudaGraphs

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def test_on_a_cpu_outputs_are_not_copied_asynchronously() -> None:
    outputs = torch.ones(2)
    assert copy_back(outputs) is outputs


def test_a_cpu_reports_no_device_memory() -> None:
    assert memory(device_name(torch.device("cpu"))) == memory("simulated") == {}


@cuda
def test_device_memory_of_tensors_is_reported() -> None:
    name = device_name(torch.device("cuda", 0))
    before = memory(name)
    assert tuple(before) == DEVICE_MEMORY.values
    held = torch.empty(1 << 24, dtype=torch.uint8, device="cuda:0")
    after = memory(name)
    assert after["allocated"] == before["allocated"] + held.numel()
    assert after["allocated"] <= after["reserved"] < after["total"] == before["total"]


@cuda
def test_each_batch_gets_its_own_outputs_at_any_size() -> None:
    device = torch.device("cuda", 0)
    network = (
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)).eval().to(device)
    )
    with torch.inference_mode():
        graphs = CudaGraphs(network, lambda rows: torch.zeros(rows, 3, 8, 8, device=device), [1, 2, 4, 6])
        for rows in (1, 2, 3, 4, 5, 6, 1):
            batch = torch.randn(rows, 3, 8, 8, device=device)
            torch.testing.assert_close(graphs(batch), network(batch), rtol=1e-4, atol=1e-5)


@cuda
def test_outputs_are_not_overwritten_by_the_next_batch() -> None:
    device = torch.device("cuda", 0)
    on_their_way = []
    for number in range(50):
        batch = stack_on(device, [torch.full((1000,), float(number + row)) for row in range(8)])
        on_their_way.append(copy_back(batch * 2))
    for number, outputs in enumerate(on_their_way):
        assert isinstance(outputs, AsyncHostCopy)
        assert (outputs.wait() == [[2.0 * (number + row)] * 1000 for row in range(8)]).all()
