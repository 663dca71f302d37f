"""Measure a GPU's throughput: the bare network, the engine, and the whole server over HTTP.

    python -m loadtest.gpu [--device cuda] [--models resnet18,resnet50] [--sizes 1,8,32,128] [--quick] [--out DIR]

Needs torch and torchvision. Weights are random, so nothing is downloaded. Writes DIR/gpu.json.

    bare        the network alone in a loop, channels_last, one batch after the other
    jpegs       JPEG decoding: by the device a batch at a time, and by one CPU thread
    engine      the worker's engine without HTTP: stack rows, copy, normalize, run the chosen variant, copy back
    own         the same engine with ResNet18 as a user's class, compared with MODEL_PATH=resnet18, on float32 tensors
    end to end  `smartbatch up` with JPEGs over HTTP; the CPU time of each process shows the bottleneck
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
import torchvision

from loadtest.bench.rows.own_model import MODEL as OWN_MODEL
from loadtest.bench.rows.photos import photo
from loadtest.bench.run import Run, closed_loop, median
from loadtest.system import smartbatch
from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.worker.core.batch import Batch, ClaimedEntry
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.core.device import DTYPES, device_name, open_device
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
CONNECTIONS = 256


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


def main() -> None:
    options = _options()
    run = Run(quick=options.quick)
    context = LoadContext(options.device, options.dtype, "auto", "random", max_batch_size=max(options.sizes))
    device = open_device(context)
    document: dict[str, Any] = {
        "device": device_name(device),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "dtype": options.dtype,
        "jpegs": {way: rate.as_json() for way, rate in jpegs(device, max(options.sizes), run.seconds(3)).items()},
        "models": {},
    }
    run.log(f"JPEGs of 224x224: {document['jpegs']}")
    for name in options.models:
        result: dict[str, Any] = {"images": {}}
        document["models"][name] = result
        model = resolve(name)
        model.load(context)
        result["variant"] = str(model.variant)
        run.log(f"{name} on {document['device']}, {options.dtype}, served as {result['variant']}")
        network = torchvision.models.get_model(name, weights=None).eval().to(device, DTYPES[options.dtype])
        network = weights_channels_last(network)
        for size in options.sizes:
            in_bare = bare(network, device, options.dtype, size, run.seconds(5))
            in_engine = engine(model, size, run.seconds(5))
            result["images"][size] = {"bare": in_bare.as_json(), "engine": in_engine.as_json()}
            share = in_engine.per_s / in_bare.per_s
            run.log(f"{name}, {size} rows: bare {in_bare.per_s:,.0f}/s, engine {in_engine.per_s:,.0f}/s ({share:.0%})")
    document["own"] = own_model(context, options.sizes, run)
    if not options.no_http:
        document["end_to_end"] = end_to_end(options, run)
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1)
    (options.out / "gpu.json").write_text(text + "\n")
    print(text)


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
                rates[name].append(round(engine(model, size, run.seconds(3), row).per_s, 1))
        share = median([own / built_in for own, built_in in zip(*rates.values(), strict=True)])
        result["images"][size] = {**rates, "share": round(share, 3)}
        run.log(f"resnet18 as a user's class, {size} rows: {share:.1%} of the built-in one")
    return result


def engine(model: Model, size: int, seconds: float, row: Any = None) -> Measured:
    """Measure the engine, which always has decoded rows to run, by default the model's example."""
    running = Engine(model, size, CostModel(), WorkerMetrics("m", "w"))
    places = threading.Semaphore(IN_FLIGHT)
    done: list[Batch] = []

    def on_done(batch: Batch) -> None:
        done.append(batch)
        places.release()

    row = model.example() if row is None else row
    batches = [[_entry(row) for _ in range(size)] for _ in range(IN_FLIGHT + 1)]
    entries = itertools.cycle(batches)
    counted = 0  # of `done`

    def submit() -> int:
        nonlocal counted
        places.acquire()
        running.submit(Batch("b", next(entries), "full"))
        before, counted = counted, len(done)
        return (counted - before) * size

    running.on_done = on_done
    running.start()
    try:
        repeat(submit, WARM_S)
        measured = repeat(submit, seconds)
    finally:
        running.close()
    if failed := [entry.error for batch in batches for entry in batch if entry.error]:
        raise failed[0]
    return measured


def _entry(row: Any) -> ClaimedEntry:
    entry = ClaimedEntry(Entry("1-0", "r", "g", 0, 3_600_000, 1, 1, "tensor", "", b"x"), 0, time.monotonic())
    entry.rows = [row]
    entry.decoded = Future()
    entry.decoded.set_result(None)
    return entry


def end_to_end(options: argparse.Namespace, run: Run) -> dict[str, Any]:
    """Send JPEGs over HTTP to the first model, with one gateway process and with one per four cores."""
    results: dict[str, Any] = {}
    for gateways in sorted({1, max(1, (os.cpu_count() or 1) // 4)}):
        settings = {"DEVICE": options.device, "DTYPE": options.dtype, "MODEL_WEIGHTS": "random"}
        settings |= {"GATEWAY_PROCESSES": gateways, "MAX_BATCH_SIZE": max(options.sizes)}
        with smartbatch(options.models[0], **settings) as system:
            load = {"": closed_loop(system, photo(), CONNECTIONS, content_type="image/jpeg")}
            title = f"end to end, {options.models[0]}, {gateways} gateway processes"
            warm_s, seconds = run.seconds(5), 10
            (results[f"{gateways} gateways"],) = run.interleave(title, load, rounds=1, seconds=seconds, warm_s=warm_s)[
                ""
            ]
    return results


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.gpu", description="Measure a GPU's throughput.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=list(DTYPES))
    parser.add_argument("--models", default=["resnet18", "resnet50"], type=lambda text: text.split(","))
    parser.add_argument("--sizes", default=[1, 8, 32, 128], type=lambda text: [int(size) for size in text.split(",")])
    parser.add_argument("--quick", action="store_true", help="a second each")
    parser.add_argument("--no-http", action="store_true", help="skip the end-to-end part")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
