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
from smartbatch.worker.core.random_rows import mates
from smartbatch.worker.core.user_traceback import describe
from smartbatch.worker.execution.batch_mates import Comparison
from smartbatch.worker.execution.engine import Engine

log = logging.getLogger(__name__)


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
    comparison = Comparison(model.compute_dtype)
    for number, size in enumerate(all_sizes := sizes(max_rows), 1):
        if size > engine.memory_limit:
            break
        progress(f"warming up {number}/{len(all_sizes)}: {size} row{'s' * (size > 1)}")
        started = time.monotonic()
        too_large = False
        try:
            comparison.add(_run(engine, model, row, others, size), size)
        except Exception as error:
            if size == 1 or not engine.warm_up_failed(size, error):
                where = f"{'rows of the input' if rows else 'its own example'}, {size} row{'s' * (size > 1)}"
                raise ModelLoadError(f"the model failed on {where}: {describe(error)}") from error
            too_large = True
        if too_large:  # only here is the error released, and with its traceback the device memory that it held
            model.free_memory()
            break
        seconds = time.monotonic() - started
        progress(f"warmed up {number}/{len(all_sizes)}: {size} rows in {seconds * 1000:.1f} ms")
    if not comparison.differs:
        return ""
    again = Comparison(model.compute_dtype)
    for _ in range(2):
        again.add(engine.forward([row], warm_up=True)[0], 1)
    warning = again.warning or comparison.warning
    log.warning("%s", warning)
    return warning


def _run(engine: Engine, model: Model, row: Any, others: list[Any], size: int) -> Any:
    """Run the row among others, or among copies of itself if others are refused. Returns its output."""
    try:
        found = itertools.cycle(others) if others else mates(row, size - 1)
        rows = [row, *itertools.islice(found, size - 1)]
        if len({model.group(each) for each in rows}) == 1:
            return engine.forward(rows, warm_up=True)[0]
    except Exception as error:
        if is_out_of_memory(error):
            raise
        log.debug("warm-up with random rows failed", exc_info=True)
    return engine.forward([row] * size, warm_up=True)[0]
