"""Rates without HTTP: the bare network, JPEG decoding, and the worker's engine."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import msgspec
import torch
import torchvision

from loadtest.bench.rows.own_model import MODEL as OWN_MODEL
from loadtest.bench.rows.photos import photo
from loadtest.bench.run import Run, median
from loadtest.workload.text_model import minilm
from loadtest.workload.texts import docstrings
from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.wire import Payload
from smartbatch.worker.core.batch import Batch, ClaimedEntry
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.core.device import DTYPES, open_device
from smartbatch.worker.core.model import LoadContext, Model
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.images.decode import Preset, decode_image
from smartbatch.worker.images.device_jpeg import DeviceJpegs
from smartbatch.worker.models import resolve
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.optimization.folding import weights_channels_last

WARM_S = 0.5
WARM_FORWARDS = 3
IN_FLIGHT = 3  # batches: one is computed, one is launched, one copies its outputs back
MAX_PIXELS = 50_000_000
TEXTS = 256


class Measured(NamedTuple):
    """A number of items and the seconds in which they were processed."""

    items: int
    seconds: float

    @property
    def per_s(self) -> float:
        return self.items / self.seconds

    def as_json(self) -> dict[str, float]:
        return {"items": self.items, "seconds": round(self.seconds, 4), "per_s": round(self.per_s, 1)}


def repeat(step: Callable[[], int], seconds: float) -> Measured:
    """Call `step` for this many seconds. It returns the number of items that it has processed."""
    items, started = 0, time.perf_counter()
    while time.perf_counter() < started + seconds:
        items += step()
    return Measured(items, time.perf_counter() - started)


def images(name: str, context: LoadContext, sizes: list[int], run: Run) -> dict[str, Any]:
    """Measure the bare network and the engine, batch size by batch size."""
    device = open_device(context)
    model = resolve(name)
    model.load(context)
    network = torchvision.models.get_model(name, weights=None).eval().to(device, DTYPES[context.dtype])
    network = weights_channels_last(network)
    result: dict[str, Any] = {"variant": str(model.variant), "sizes": {}}
    for size in sizes:
        in_bare = bare(network, device, context.dtype, size, run.seconds(2))
        in_engine = engine(model, [[model.example()] * size], run.seconds(2))
        share = in_engine.per_s / in_bare.per_s
        result["sizes"][size] = {"bare": in_bare.as_json(), "engine": in_engine.as_json(), "share": round(share, 3)}
        run.log(f"{name}, {context.dtype}, {size} rows: {in_engine.per_s:,.0f}/s, {share:.0%} of the bare network")
    return result


def texts(context: LoadContext, sizes: list[int], run: Run) -> dict[str, Any]:
    """Measure all-MiniLM on docstrings, sorted by length: its forward in a loop, and the engine, on equal batches."""
    path = minilm()
    model = resolve(path)
    model.load(msgspec.structs.replace(context, weights="default"))
    rows = sorted(model.decode(Payload("text", list(docstrings()[:TEXTS]))), key=model.size)
    result: dict[str, Any] = {"model_path": path, "sizes": {}}
    for size in sizes:
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        random.Random(1).shuffle(batches)  # neither is measured on short texts only
        in_bare = _bare_texts(model, batches, run.seconds(2))
        in_engine = engine(model, batches, run.seconds(2))
        share = in_engine.per_s / in_bare.per_s
        result["sizes"][size] = {"bare": in_bare.as_json(), "engine": in_engine.as_json(), "share": round(share, 3)}
        run.log(f"all-MiniLM, {size} texts: {in_engine.per_s:,.0f}/s, {share:.0%} of the bare forward")
    return result


@torch.inference_mode()
def bare(network: torch.nn.Module, device: torch.device, dtype: str, size: int, seconds: float) -> Measured:
    """Measure the network alone. Its input is already on the device."""
    batch = torch.rand(size, 3, 224, 224, device=device, dtype=DTYPES[dtype])
    batch = batch.contiguous(memory_format=torch.channels_last)

    def forwards(count: int) -> int:
        for _ in range(count):
            network(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return count * size

    forwards(WARM_FORWARDS)
    return repeat(lambda: forwards(4), seconds)


def jpegs(device: torch.device, size: int, seconds: float) -> dict[str, Measured]:
    """Measure JPEG decoding: by the device in batches of `size`, and by one CPU thread."""
    preset, file = Preset(256, 224), photo()
    rows = [torch.frombuffer(bytearray(file), dtype=torch.uint8)] * size
    on_device = DeviceJpegs(device, preset)

    def by_device() -> int:
        on_device.pixels(rows)[-1].cpu()
        return size

    def by_cpu() -> int:
        decode_image(file, preset, MAX_PIXELS)
        return 1

    by_device()
    by_cpu()
    return {str(device): repeat(by_device, seconds), "one CPU thread": repeat(by_cpu, seconds)}


def own_model(context: LoadContext, sizes: list[int], run: Run) -> dict[str, Any]:
    """Measure the engine with ResNet18 as a user's class and as the built-in one, in turns, on equal rows."""
    models = {"own": resolve(OWN_MODEL), "built in": resolve("resnet18")}
    for name, model in models.items():
        model.load(context if name == "built in" else msgspec.structs.replace(context, weights="default"))
    row = torch.rand(3, 224, 224)
    result: dict[str, Any] = {"variants": {name: str(model.variant) for name, model in models.items()}, "images": {}}
    for size in sizes:
        rates: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(run.rounds(3)):
            for name, model in models.items():
                rates[name].append(round(engine(model, [[row] * size], run.seconds(3)).per_s, 1))
        share = median([own / built_in for own, built_in in zip(*rates.values(), strict=True)])
        result["images"][size] = {**rates, "share": round(share, 3)}
        run.log(f"resnet18 as a user's class, {size} rows: {share:.1%} of the built-in one")
    return result


def engine(model: Model, batches: list[list[Any]], seconds: float) -> Measured:
    """Measure the engine, which runs these batches of decoded rows over and over and always has the next one."""
    running = Engine(model, max(map(len, batches)), CostModel(), WorkerMetrics("m", "w"))
    places = threading.Semaphore(IN_FLIGHT)
    rows_done = 0

    def on_done(batch: Batch) -> None:
        nonlocal rows_done
        rows_done += len(batch.claimed_entries)
        places.release()

    # A batch isn't submitted again before it is done.
    claimed = [[_entry(row) for row in rows] for rows in batches * math.ceil((IN_FLIGHT + 1) / len(batches))]
    entries = itertools.cycle(claimed)
    counted = 0  # of `rows_done`

    def submit() -> int:
        nonlocal counted
        places.acquire()
        running.submit(Batch("b", next(entries), "full"))
        before, counted = counted, rows_done
        return counted - before

    running.on_done = on_done
    running.start()
    try:
        repeat(submit, WARM_S)
        measured = repeat(submit, seconds)
    finally:
        running.close()
    if failed := [entry.error for batch in claimed for entry in batch if entry.error]:
        raise failed[0]
    return measured


@torch.inference_mode()
def _bare_texts(model: Model, batches: list[list[Any]], seconds: float) -> Measured:
    collated = itertools.cycle([(model.collate(rows), len(rows)) for rows in batches])

    def forward() -> int:
        batch, count = next(collated)
        model.separate(model.forward(batch), count)  # waits for the outputs
        return count

    repeat(forward, WARM_S)
    return repeat(forward, seconds)


def _entry(row: Any) -> ClaimedEntry:
    entry = ClaimedEntry(Entry("1-0", "r", "g", 0, 3_600_000, 1, 1, "tensor", "", b"x"), 0, time.monotonic())
    entry.rows = [row]
    entry.decoded = Future()
    entry.decoded.set_result(None)
    return entry
