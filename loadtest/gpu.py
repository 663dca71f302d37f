"""What a GPU reaches: bare, through the engine, and end to end over HTTP.

    python -m loadtest.gpu [--device cuda] [--models resnet18,resnet50] [--sizes 1,8,32,128] [--quick] [--out DIR]

Needs torch and torchvision and fetches nothing (random weights). Prints as it goes, and leaves DIR/gpu.json.

    bare        the network alone, channels_last, one batch after the other, in a loop that does nothing else
    jpegs       decoded by the device, a batch at a time, and by one thread of the CPU
    engine      the worker's engine: rows stacked, copied, normalised, run as OPTIMIZE chose, copied back; no HTTP
    end to end  `smartbatch up` with JPEGs over HTTP, and the processor time of each process, which names the bottleneck
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
from typing import Any

import torch
import torchvision

from loadtest.bench.figures import Run
from loadtest.bench.rows.echo import driven
from loadtest.bench.rows.photos import photo
from loadtest.bench.system import smartbatch
from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.worker.core.batch import Batch, ClaimedEntry
from smartbatch.worker.core.device import DTYPES, device_name, open_device
from smartbatch.worker.core.estimators import LatencyEstimator
from smartbatch.worker.core.model import LoadContext, Model
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.images.decode import Preset, decode_image
from smartbatch.worker.images.device_jpeg import DeviceJpegs
from smartbatch.worker.models import resolve
from smartbatch.worker.observability.metrics import WorkerMetrics
from smartbatch.worker.optimization.folding import weights_channels_last

WARM_S = 0.5
IN_FLIGHT = 3  # batches: one computed, one launched, one on its way from landing back to here


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
        "jpegs_per_s": jpeg_rates(device, max(options.sizes), run.seconds(3)),
        "models": {},
    }
    run.say(f"JPEGs of 224x224 a second: {document['jpegs_per_s']}")
    for name in options.models:
        found: dict[str, Any] = {"images_per_s": {}}
        document["models"][name] = found
        model = resolve(name)
        model.load(context)
        found["form"] = str(model.variant)
        run.say(f"{name} on {document['device']}, {options.dtype}, served as {found['form']}")
        network = _bare_network(name, device, options.dtype)
        for size in options.sizes:
            bare = bare_rate(network, device, options.dtype, size, run.seconds(5))
            engine = engine_rate(model, size, run.seconds(5))
            found["images_per_s"][size] = {"bare": round(bare, 1), "engine": round(engine, 1)}
            run.say(f"{name}, {size} rows: bare {bare:,.0f}/s, engine {engine:,.0f}/s ({engine / bare:.0%})")
    if not options.no_http:
        document["end_to_end"] = end_to_end(options, run)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


def _bare_network(name: str, device: torch.device, dtype: str) -> torch.nn.Module:
    network = torchvision.models.get_model(name, weights=None).eval().to(device, DTYPES[dtype])
    return weights_channels_last(network)


@torch.inference_mode()
def bare_rate(network: torch.nn.Module, device: torch.device, dtype: str, size: int, seconds: float) -> float:
    """Images a second of the network alone, with its input on the device already."""
    batch = torch.rand(size, 3, 224, 224, device=device, dtype=DTYPES[dtype])
    batch = batch.contiguous(memory_format=torch.channels_last)
    for _ in range(3):
        network(batch)
    _wait_for(device)
    forwards, started = 0, time.perf_counter()
    while time.perf_counter() < started + seconds:
        for _ in range(4):
            network(batch)
        _wait_for(device)
        forwards += 4
    return forwards * size / (time.perf_counter() - started)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def jpeg_rates(device: torch.device, size: int, seconds: float) -> dict[str, float]:
    """JPEGs a second: on the device in batches of `size`, and on one thread of the CPU."""
    preset, file = Preset(256, 224), photo()
    rows = [torch.frombuffer(bytearray(file), dtype=torch.uint8)] * size
    jpegs = DeviceJpegs(device, preset)
    ways: dict[str, tuple[int, Callable[[], torch.Tensor]]] = {
        str(device): (size, lambda: jpegs.pixels(rows)[-1].cpu()),
        "one CPU thread": (1, lambda: decode_image(file, preset, 50_000_000)),
    }
    found = {}
    for way, (count, decode) in ways.items():
        decode()
        decoded, started = 0, time.perf_counter()
        while time.perf_counter() < started + seconds:
            decode()
            decoded += count
        found[way] = round(decoded / (time.perf_counter() - started), 1)
    return found


def engine_rate(model: Model, size: int, seconds: float) -> float:
    """Images a second through the engine, with decoded rows always at hand."""
    engine = Engine(model, size, LatencyEstimator(), WorkerMetrics("m"))
    places = threading.Semaphore(IN_FLIGHT)
    done: list[Batch] = []

    def landed(batch: Batch) -> None:
        done.append(batch)
        places.release()

    engine.on_done = landed
    engine.start()
    row = model.example()
    claimed_entries = itertools.cycle([[_rider(row) for _ in range(size)] for _ in range(IN_FLIGHT + 1)])

    def submit_until(until: float) -> None:
        while time.perf_counter() < until:
            places.acquire()
            engine.submit(Batch("b", next(claimed_entries), "full"))

    try:
        submit_until(time.perf_counter() + WARM_S)
        started, before = time.perf_counter(), len(done)
        submit_until(started + seconds)
        finished, took = len(done) - before, time.perf_counter() - started
    finally:
        engine.close()
    if failed := [claimed.error for batch in done for claimed in batch.claimed_entries if claimed.error]:
        raise failed[0]
    return finished * size / took


def _rider(row: Any) -> ClaimedEntry:
    claimed = ClaimedEntry(Entry("1-0", "r", "g", 0, 3_600_000, 1, 1, "tensor", "", b"x"), 0, time.monotonic())
    claimed.rows = [row]
    claimed.decoded = Future()
    claimed.decoded.set_result(None)
    return claimed


def end_to_end(options: argparse.Namespace, run: Run) -> dict[str, Any]:
    """JPEGs over HTTP to the first model, with more and more gateway processes."""
    found: dict[str, Any] = {}
    for gateways in sorted({1, max(1, (os.cpu_count() or 1) // 4)}):
        settings = {"DEVICE": options.device, "DTYPE": options.dtype, "MODEL_WEIGHTS": "random"}
        with smartbatch(
            options.models[0], GATEWAY_PROCESSES=gateways, MAX_BATCH_SIZE=max(options.sizes), **settings
        ) as system:
            run.say(f"end to end: {options.models[0]}, {gateways} gateway processes")
            driven(system, photo(), 256, run.seconds(5), content_type="image/jpeg")
            found[f"{gateways} gateways"] = driven(system, photo(), 256, run.seconds(10), content_type="image/jpeg")
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.gpu", description="What a GPU reaches.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=list(DTYPES))
    parser.add_argument("--models", default=["resnet18", "resnet50"], type=lambda text: text.split(","))
    parser.add_argument("--sizes", default=[1, 8, 32, 128], type=lambda text: [int(size) for size in text.split(",")])
    parser.add_argument("--quick", action="store_true", help="a second each")
    parser.add_argument("--no-http", action="store_true", help="leave out end to end")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
