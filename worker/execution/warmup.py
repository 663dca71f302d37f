"""Warm-up: run every batch size once before the worker reports ready.

The times are recorded, so that the first deadlines are judged by measured forwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from smartbatch.shared.errors import ModelLoadError
from smartbatch.worker.core.batch_sizes import sizes
from smartbatch.worker.core.model import Model
from smartbatch.worker.execution.engine import Engine


def warm_up(engine: Engine, model: Model, max_rows: int, progress: Callable[[str], None]) -> None:
    """Run every size once, in the device thread. A size that does not fit the device lowers the memory limit.

    Raises ModelLoadError if the model fails on its own example for any other reason.
    """
    row = model.example()
    if row is None:
        progress("no warm-up: the model has no example row")
        return
    for number, size in enumerate(all_sizes := sizes(max_rows), 1):
        if size > engine.memory_limit:
            break
        progress(f"warming up {number}/{len(all_sizes)}: {size} row{'s' * (size > 1)}")
        started = time.monotonic()
        too_large = False
        try:
            engine.forward([row] * size, warm_up=True)
        except Exception as error:
            if size == 1 or not engine.warm_up_failed(size, error):
                where = f"its own example, {size} row{'s' * (size > 1)}"
                raise ModelLoadError(f"the model failed on {where}: {type(error).__name__}: {error}") from error
            too_large = True
        if too_large:  # only here is the error released, and with its traceback the device memory that it held
            model.free_memory()
            break
        seconds = time.monotonic() - started
        progress(f"warmed up {number}/{len(all_sizes)}: {size} rows in {seconds * 1000:.1f} ms")
