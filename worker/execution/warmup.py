"""Warm-up: run every batch size once before the worker reports ready.

The times are recorded, so that the first deadlines are judged by measured forwards. The example's outputs among other
rows are compared with those that it has alone.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from smartbatch.shared.errors import ModelLoadError
from smartbatch.worker.core.batch_sizes import sizes
from smartbatch.worker.core.device_errors import is_out_of_memory
from smartbatch.worker.core.model import Model
from smartbatch.worker.core.random_rows import mates, resized
from smartbatch.worker.core.user_traceback import describe
from smartbatch.worker.execution.batch_mates import Comparison
from smartbatch.worker.execution.engine import Engine

log = logging.getLogger(__name__)

SIZE_FACTORS = (0.25, 4, 16)  # of the example's size
LONG_FORWARD_S = 0.5  # after a forward this long, no more rows of its size are tried


def warm_up(
    engine: Engine, model: Model, max_rows: int, progress: Callable[[str], None], rows: Sequence[Any] = ()
) -> str:
    """Run every size once, in the device thread. A size that does not fit the device lowers the memory limit.

    `rows` of one group replace the model's example and its random batch mates. Returns, and logs, a warning if batch
    mates or chance change outputs; else an empty text. Raises ModelLoadError if the model fails on its own example for
    any other reason than memory.
    """
    row, *others = rows or [model.example()]
    if row is None:
        progress(
            "no warm-up and no check of batch mates: the model has no `example`, nor an `input` with shape and dtype"
        )
        return ""
    sized = _size(model, row) if model.sized else 0
    comparison = Comparison(model.compute_dtype)
    for number, size in enumerate(all_sizes := sizes(max_rows), 1):
        if size * max(1, sized) > engine.memory_limit:
            break
        progress(f"warming up {number}/{len(all_sizes)}: {size} row{'s' * (size > 1)}")
        started = time.monotonic()
        too_large = False
        try:
            comparison.add(_run(engine, model, row, others, size), size)
        except Exception as error:
            if size == 1 or not engine.warm_up_failed(size * max(1, sized), error):
                where = f"{'rows of the input' if rows else 'its own example'}, {size} row{'s' * (size > 1)}"
                raise ModelLoadError(f"the model failed on {where}: {describe(error)}") from error
            too_large = True
        if too_large:  # only here is the error released, and with its traceback the device memory that it held
            model.free_memory()
            break
        seconds = time.monotonic() - started
        progress(f"warmed up {number}/{len(all_sizes)}: {size} rows in {seconds * 1000:.1f} ms")
    if sized:
        _measure_sizes(engine, model, row, sized, max_rows)
    if not comparison.differs:
        return ""
    again = Comparison(model.compute_dtype)
    for _ in range(2):
        again.add(_forward(engine, model, [row])[0], 1)
    warning = again.warning or comparison.warning
    log.warning("%s", warning)
    return warning


def _run(engine: Engine, model: Model, row: Any, others: list[Any], size: int) -> Any:
    """Run the row among others, or among copies of itself if others are refused. Returns its output."""
    try:
        found = itertools.cycle(others) if others else mates(row, size - 1)
        rows = [row, *itertools.islice(found, size - 1)]
        if len({model.group(each) for each in rows}) == 1:
            return _forward(engine, model, rows)[0]
    except Exception as error:
        if is_out_of_memory(error):
            raise
        log.debug("warm-up with random rows failed", exc_info=True)
    return _forward(engine, model, [row] * size)[0]


def _forward(engine: Engine, model: Model, rows: list[Any]) -> list[Any]:
    size = max(_size(model, row) for row in rows) if model.sized else 1
    with engine.turn():
        return engine.forward(rows, size=size, warm_up=True)


def _size(model: Model, row: Any) -> int:
    """Return a row's size, or 1 if the model's `size` is wrong: requests will show it."""
    try:
        return max(1, int(model.size(row)))
    except Exception:
        return 1


def _measure_sizes(engine: Engine, model: Model, row: Any, size: int, max_rows: int) -> None:
    """Measure forwards of rows of other sizes, made of the example by repeating or cutting it.

    Rows are made longer on a CPU only: one that is too long for the model raises there, and may end a GPU's context.
    """
    for factor in SIZE_FACTORS:
        if factor > 1 and model.device_name != "cpu":
            return
        other = resized(row, max(1, int(size * factor)))
        if other is None:
            return
        for rows in (1, 4, 16):
            if rows > max_rows or rows * size * factor > engine.memory_limit:
                break
            started = time.monotonic()
            try:
                _forward(engine, model, [other] * rows)
            except Exception:  # it may be too long for the model
                log.debug("warm-up with rows of another size failed", exc_info=True)
                return
            if time.monotonic() - started > LONG_FORWARD_S:
                break
