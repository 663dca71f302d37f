"""`smartbatch check`"""

from __future__ import annotations

import itertools
import logging
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from smartbatch.deploy.options import read, setting_options
from smartbatch.deploy.payloads import describe as describe_payload
from smartbatch.deploy.tables import console, table
from smartbatch.shared.errors import ClientError, InvalidInput, SmartBatchError
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.settings import Settings
from smartbatch.shared.wire import Result, pack_payload, unpack_payload

T = TypeVar("T")

# Of other files the first bytes decide, as for a request without a Content-Type.
CONTENT_TYPES = {".json": "application/json", ".txt": "text/plain", ".msgpack": "application/msgpack"}
MEASURE_S = 0.3  # of each batch size, in up to MEASURE_RUNS runs
MEASURE_RUNS = 30


@click.command("check")
@click.argument("model_path", metavar="MODEL")
@click.option(
    "--input",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A body of POST /predict: JSON, .npy, .msgpack, an image, .txt, or any other file as a raw body. Repeatable. "
    "Default: the model's own example.",
)
@setting_options("MODEL_WEIGHTS", "DEVICE", "DTYPE", "OPTIMIZE", "MAX_BATCH_SIZE")
def command(model_path: str, files: tuple[Path, ...], **options: str | None) -> None:
    """Load MODEL (a value of MODEL_PATH, such as my_model.py:Net) in this process and run it, without a server.

    Shows the shapes of inputs and outputs, the variants of its network that OPTIMIZE tried and which it chose, the time
    by batch size, and whether the rows of a batch change each other's results, which would change a request's result by
    who else asks. Exit code: 0, 1 if they do, 2 after an error.
    """
    from smartbatch.worker import models
    from smartbatch.worker.core.batch_sizes import sizes
    from smartbatch.worker.core.cost_model import CostModel
    from smartbatch.worker.execution.engine import Engine
    from smartbatch.worker.execution.warmup import warm_up
    from smartbatch.worker.observability.metrics import WorkerMetrics

    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    for name in ("models", "optimization"):  # which variants were tried, and why others were not
        logging.getLogger(f"smartbatch.worker.{name}").setLevel(logging.INFO)
    settings = read({**options, "model_path": model_path})
    screen = console()
    model = models.resolve(model_path)
    info = _load(model, settings)
    engine = Engine(model, settings.max_batch_size, CostModel(), WorkerMetrics(info.id, "check"))
    rows = [row for file in files for row in _run_file(file, model, engine, info, settings.max_request_rows, screen)]
    if not files:
        rows = [row] if (row := _call("example()", model.example)) is not None else []
    if not rows:
        raise SmartBatchError(f"{info.name} has no example() and announces no shape; pass a file with --input")
    group = _call("group()", lambda: [row for row in rows if model.group(row) == model.group(rows[0])])
    warning = _call("forward", lambda: warm_up(engine, model, settings.max_batch_size, lambda text: None, group))
    times = table("rows", "ms", "rows/s", title=f"forward on {model.device_name}")
    largest = _call("size()", lambda: max(map(model.size, group))) if model.sized else 1
    for size in sizes(settings.max_batch_size):
        if size * largest > engine.memory_limit:
            break
        seconds = _measure(lambda size=size: engine.forward(list(itertools.islice(itertools.cycle(group), size))))
        times.add_row(str(size), f"{seconds * 1000:.3f}", f"{size / seconds:,.0f}")
    screen.print(times)
    if model.variant.name != "none":
        screen.print(f"variant: {model.variant}")
    screen.print(warning or "batch mates: a row's result is the same alone and in any batch", style=warning and "red")
    sys.exit(1 if warning else 0)


def _load(model: Any, settings: Settings) -> ModelInfo:
    from smartbatch.worker.core.model import LoadContext

    _call("load", lambda: model.load(LoadContext.of(settings)))
    return model.info(settings.model, settings.model_path, settings.max_batch_size)


def _run_file(file: Path, model: Any, engine: Any, info: ModelInfo, max_rows: int, screen: Console) -> list[Any]:
    """Run a file as one request, print what went in and came out, and return its rows."""
    from smartbatch.gateway import formats

    content_type = CONTENT_TYPES.get(file.suffix, "")
    try:
        payload = formats.parse(file.read_bytes(), content_type, info, max_rows=max_rows)
        payload = unpack_payload(pack_payload(payload))  # as the worker gets it
        rows = _call(f"decode of {file}", lambda: model.decode(payload))
        if not rows:
            raise InvalidInput("expected at least one row, got none")
        outputs = [_call(f"forward of {file}", lambda row=row: engine.forward([row])[0]) for row in rows]
        result = _call(f"encode of {file}", lambda: model.encode(outputs, payload.options))
    except ClientError as error:
        raise SmartBatchError(f"{file}: {error.code}: {error}") from None
    screen.print(f"{file}: {_brief(describe_payload(payload))} → {_rows(rows)} → {_outputs(result)}")
    return rows


def _call(what: str, function: Callable[[], T]) -> T:
    """Call the user's code. An error that is theirs is printed from their first frame on, and ends the command."""
    from smartbatch.worker.core.user_traceback import describe, without_callers

    try:
        return function()
    except ClientError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        if not isinstance(cause, SmartBatchError):
            traceback.print_exception(type(cause), cause, without_callers(cause))
        if isinstance(error, SmartBatchError):
            raise
        raise SmartBatchError(f"{what} failed, {describe(error)}") from None


def _measure(run: Callable[[], object]) -> float:
    """Return the median of the times of several runs, in seconds."""
    times: list[float] = []
    while len(times) < MEASURE_RUNS and sum(times) < MEASURE_S:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _brief(fields: dict[str, Any]) -> str:
    return " ".join(str(value) for name, value in fields.items() if name != "options")


def _rows(rows: list[Any]) -> str:
    first = rows[0]
    kind = (
        f"{first.dtype} {list(first.shape)}".removeprefix("torch.") if hasattr(first, "shape") else type(first).__name__
    )
    return f"{len(rows)} row{'s' * (len(rows) > 1)} of {kind}"


def _outputs(result: Result) -> str:
    if result.outputs is not None:
        return ", ".join(f"{name} {tensor.dtype} {list(tensor.shape)}" for name, tensor in result.outputs.items())
    if result.classes is not None:
        return f"classes of {len(result.classes)} rows"
    return f"values {str(result.values)[:200]}"
