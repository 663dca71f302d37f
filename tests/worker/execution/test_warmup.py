"""Warm-up runs the batch sizes that will occur, within the device's memory."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from smartbatch.worker.core.batch_sizes import sizes
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.core.random_rows import mates
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.execution.warmup import warm_up
from smartbatch.worker.observability.metrics import WorkerMetrics
from tests.worker.execution.test_engine import Doubler


def warmed(model: Doubler, max_rows: int) -> tuple[Engine, list[str]]:
    engine = Engine(model, max_rows, CostModel(), WorkerMetrics("m", "w"))
    progress: list[str] = []
    warm_up(engine, model, max_rows, progress.append)
    return engine, progress


def test_the_sizes_double_up_to_the_limit() -> None:
    assert sizes(1) == [1]
    assert sizes(32) == [1, 2, 4, 8, 16, 32]
    assert sizes(20) == [1, 2, 4, 8, 16, 20]


def test_every_size_runs_once_before_the_first_request() -> None:
    model = Doubler()
    warmed(model, 20)
    assert [len(rows) for rows in model.ran] == [1, 2, 4, 8, 16, 20]


def test_a_size_that_does_not_fit_lowers_the_memory_limit() -> None:
    model = Doubler()

    def reject(rows: list[int]) -> None:
        if len(rows) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.reject = reject
    engine, _ = warmed(model, 32)
    assert engine.memory_limit == 8


def test_a_model_without_an_example_serves_without_warm_up() -> None:
    model = Doubler()
    model.example = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    _, progress = warmed(model, 32)
    assert model.ran == []
    assert progress == [
        "no warm-up and no check of batch mates: the model has no `example`, nor an `input` with shape and dtype"
    ]


class Rows(Doubler):
    """Rows are tensors, run by a function of the test's own."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def example(self):
        return torch.zeros(4)

    def group(self, row: Any):
        return row.shape

    def collate(self, rows):
        return torch.stack(list(rows))

    def forward(self, batch):
        return self.function(batch)

    def separate(self, outputs: Any, rows: int):
        return list(outputs.numpy())


def warning(caplog: pytest.LogCaptureFixture, model: Doubler) -> str:
    with caplog.at_level(logging.WARNING, "smartbatch.worker.execution.warmup"):
        warmed(model, 8)
    return "\n".join(caplog.messages)


def test_a_model_whose_rows_are_independent_warns_of_nothing(caplog) -> None:
    assert warning(caplog, Rows(torch.nn.Linear(4, 2).requires_grad_(False))) == ""


def test_a_batch_that_changes_its_rows_results_is_warned_of(caplog) -> None:
    text = warning(caplog, Rows(lambda batch: batch - batch.mean(0) + 1))
    assert text.startswith("OTHER REQUESTS CHANGE A REQUEST'S RESULT: the output of one row alone and in a batch of")
    assert "by up to 0." in text


def test_given_rows_are_the_batch_mates_of_the_first() -> None:
    batches: list[torch.Tensor] = []

    def mean(batch):
        batches.append(batch)
        return batch - batch.mean(0)

    model, rows = Rows(mean), [torch.full((4,), float(number)) for number in (1, 2, 3)]
    engine = Engine(model, 4, CostModel(), WorkerMetrics("m", "w"))
    assert warm_up(engine, model, 4, lambda text: None, rows).startswith("OTHER REQUESTS CHANGE")
    assert [batch[:, 0].tolist() for batch in batches[:3]] == [[1], [1, 2], [1, 2, 3, 2]]


def test_a_model_that_draws_random_numbers_is_warned_of(caplog) -> None:
    assert warning(caplog, Rows(torch.rand_like)).startswith("THE MODEL'S OUTPUT IS RANDOM")


def test_a_model_that_refuses_random_rows_is_warmed_up_with_copies(caplog) -> None:
    def only_zeros(batch):
        assert not batch.any()
        return batch

    assert warning(caplog, Rows(only_zeros)) == ""


@pytest.mark.parametrize(
    ("row", "low", "high"),
    [
        (torch.zeros(500), 0, 1),
        (torch.tensor([3.0, 5.0] * 250), 3, 5),
        (torch.tensor([7, 9, 12] * 200), 7, 12),
        (np.array([7, 9, 12] * 200, np.int16), 7, 12),
    ],
)
def test_other_rows_stay_in_the_range_of_the_examples_values(row, low, high) -> None:
    for mate in mates(row, 3):
        assert type(mate) is type(row) and mate.dtype == row.dtype and mate.shape == row.shape
        assert low <= mate.min() < mate.max() <= high


def test_other_rows_of_several_inputs_have_random_values_in_each() -> None:
    row: dict[str, Any] = {"a": torch.arange(4.0), "b": np.arange(2), "words": "text"}
    for mate in mates(row, 3):
        assert list(mate) == ["a", "b", "words"] and mate["words"] == "text"
        assert not torch.equal(mate["a"], row["a"]) and 0 <= mate["a"].min() < mate["a"].max() <= 3
        assert set(mate["b"]) <= {0, 1}


@pytest.mark.parametrize("row", ["text", b"bytes", torch.zeros(3, dtype=torch.int64), torch.ones(0)])
def test_rows_of_unknown_values_are_copied(row) -> None:
    assert all(mate is row for mate in mates(row, 3))
