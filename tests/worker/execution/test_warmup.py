"""Warm-up runs the batch sizes that will occur, within the device's memory."""

from __future__ import annotations

import torch

from smartbatch.worker.core.batch_sizes import sizes
from smartbatch.worker.core.estimators import LatencyEstimator
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.execution.warmup import warm_up
from smartbatch.worker.observability.metrics import WorkerMetrics
from tests.worker.execution.test_engine import Doubler


def warmed(model: Doubler, max_rows: int) -> tuple[Engine, list[str]]:
    engine = Engine(model, max_rows, LatencyEstimator(), WorkerMetrics("m", "w"))
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
    assert progress == ["no warm-up: the model has no example row"]
