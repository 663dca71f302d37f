"""Measure a GPU in the seconds that there are.

    python -m loadtest.gpu [--budget 540] [--device cuda] [--models resnet18,resnet50,vit_b_16] [--quick] [--out DIR]

Weights are random and nothing is downloaded. The steps run in order of worth. A step whose usual time is not left is
left out, and DIR/gpu.json is written after each, so an interrupted run keeps what it measured.

    tests       pytest -m gpu: what only a real device can show is right
    engine      the worker's engine without HTTP, compared with the bare network in a loop
    serving     `smartbatch up` over HTTP: decoded pixels, closed loop, and open loop at 80 % of it
    timeline    a profile of the engine: how busy the device is, and how much of the copies is hidden
    two workers on the device, offered twice their capacity, and one of them killed
    texts       all-MiniLM on docstrings (with random weights where its package is missing), engine and bare forward
    own class   ResNet18 as a user's class, compared with MODEL_PATH=resnet18
    baseline    a plain Starlette server with the same model code
    peer        LitServe and Mosec with the same model code, where they are installed
    jpegs       JPEG decoding, by the device and by one CPU thread
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from loadtest.bench.run import Run
from loadtest.gpu import engine, serving
from loadtest.gpu.timeline import timeline
from loadtest.system import ROOT
from smartbatch.worker.core.device import DTYPES, device_name, open_device
from smartbatch.worker.core.model import LoadContext

TESTS_S = 150.0


class Step(NamedTuple):
    """A part of the measurement. `usual_s`: how long it takes on a GPU."""

    name: str
    usual_s: float
    run: Callable[[], Any]


def main() -> None:
    options = _options()
    run = Run(quick=options.quick)
    options.out.mkdir(parents=True, exist_ok=True)
    steps = [step for step in _steps(options, run) if not options.only or step.name.split(":")[0] in options.only]
    document = measure(steps, options.budget, _machine(options), options.out / "gpu.json", run)
    print(table(document))


def measure(steps: Sequence[Step], budget_s: float, machine: dict[str, Any], file: Path, run: Run) -> dict[str, Any]:
    """Run the steps for which the time is left, and write what there is after each. Returns the last of it."""
    started = time.monotonic()
    document: dict[str, Any] = {**machine, "steps": {}, "left_out": []}
    for step in steps:
        began = time.monotonic()
        left_s = budget_s - (began - started)
        if step.usual_s > left_s:
            document["left_out"].append(step.name)
            run.log(f"{step.name}: left out, {left_s:.0f} s are left and it usually takes {step.usual_s:g}")
        else:
            run.log(f"{step.name}, {left_s:.0f} s left")
            try:
                result = step.run()
            except Exception as error:  # one that fails must not end the others
                traceback.print_exc()
                result = {"error": f"{type(error).__name__}: {error}"[:1000]}
            document["steps"][step.name] = {"took_s": round(time.monotonic() - began, 1), "result": result}
        file.write_text(json.dumps(document, indent=1) + "\n")
    return document


def _steps(options: argparse.Namespace, run: Run) -> list[Step]:
    """Return the steps in order of worth."""
    context = LoadContext(options.device, options.dtype, "auto", "random", max_batch_size=max(options.sizes))
    single = msgspec.structs.replace(context, dtype="float32")
    sizes, last = options.sizes, options.models[:2][-1]
    settings = {
        "DEVICE": options.device,
        "DTYPE": options.dtype,
        "MODEL_WEIGHTS": "random",
        "MAX_BATCH_SIZE": sizes[-1],
    }
    gateways = sorted({1, max(1, (os.cpu_count() or 1) // 8), max(1, (os.cpu_count() or 1) // 4)})
    engines = [
        Step(f"engine: {name}, {each.dtype}", 30.0, partial(engine.images, name, each, sizes, run))
        for each in ([context] if context.dtype == single.dtype else [context, single])
        for name in options.models
    ]
    served = [
        Step(
            f"serving: {kind}, {count} gateway processes",
            45.0,
            partial(serving.closed_and_open, kind, last, count, settings, run),
        )
        for kind in ("tensor", "jpeg")
        for count in reversed(gateways)
    ]
    return [
        Step("tests", TESTS_S, partial(tests, run)),
        *engines[:2],
        served[0],
        *engines[2:],
        Step("timeline", 20.0, partial(timeline, last, context, min(32, sizes[-1]), options.out)),
        *served[1:],
        Step("two workers: overload and a kill", 60.0, partial(serving.two_workers, "tensor", last, settings, run)),
        Step("texts", 30.0, partial(engine.texts, single, sizes, run)),
        Step("own class", 60.0, partial(engine.own_model, context, sizes, run)),
        Step("baseline", 25.0, partial(serving.baseline, "tensor", last, settings, run)),
        *(
            Step(f"peer: {name}", 30.0, partial(serving.peer, name, last, settings, run))
            for name in serving.PEERS
            if importlib.util.find_spec(name)
        ),
        Step("jpegs", 10.0, partial(_jpegs, context, run)),
    ]


def tests(run: Run) -> dict[str, Any]:
    """Run the tests that need a device, those of the CPU too if there is none. `rc` is null if they took too long."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--tb=short", "-p", "no:cacheprovider"]
    command += ["--import-mode=append", "tests/gpu"]  # an installed package goes before this folder
    with tempfile.TemporaryFile("w+") as output:  # kept if they take too long
        try:
            code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, timeout=2 * TESTS_S).returncode
        except subprocess.TimeoutExpired:
            code = None
        output.seek(0)
        text = output.read()
    run.log(text.strip().rpartition("\n")[2])
    return {"rc": code, "output": text[-6000:]}


def _jpegs(context: LoadContext, run: Run) -> dict[str, Any]:
    rates = engine.jpegs(open_device(context), max(1, context.max_batch_size), run.seconds(3))
    return {way: rate.as_json() for way, rate in rates.items()}


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    device = open_device(LoadContext(options.device, options.dtype, "none", "random"))
    cuda = device.type == "cuda"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": device_name(device),
        "driver": _driver() if cuda else "",
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else "",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "command": " ".join(["python -m loadtest.gpu", *sys.argv[1:]]),
    }


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
    except OSError:
        return ""


def table(document: dict[str, Any]) -> str:
    """Return the result as Markdown: a line per step, and of the engine one per batch size."""
    heading = f"{document['device']}, torch {document['torch']}, {document['cores']} cores"
    lines = [heading, "", "| step | result |", "| --- | --- |"]
    for name, step in document["steps"].items():
        lines += [f"| {title} | {text} |" for title, text in _cells(name, step["result"])]
    return "\n".join([*lines, *(f"| {name} | left out |" for name in document["left_out"])])


def _cells(name: str, result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "sizes" in result:
        for size, each in result["sizes"].items():
            yield f"{name}, {size} rows", f"{each['engine']['per_s']:,.0f}/s, {each['share']:.1%} of bare"
    elif "open" in result:
        latency = f"p50 {result['open']['p50_ms']} and p99 {result['open']['p99_ms']} ms at 80 %"
        rate = f"{result['requests_per_s']:,.0f}/s, device idle {result['device_idle']:.1%}, {result['bottleneck']}"
        yield name, f"{rate}; {latency}"
    else:
        yield name, result.get("error") or json.dumps(result)[:300]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.gpu", description="Measure a GPU.")
    parser.add_argument(
        "--budget", type=float, default=540.0, help="seconds; steps that would take longer are left out"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=list(DTYPES))
    parser.add_argument("--models", default=["resnet18", "resnet50", "vit_b_16"], type=lambda text: text.split(","))
    parser.add_argument(
        "--sizes", default=[1, 8, 32, 128, 256], type=lambda text: [int(size) for size in text.split(",")]
    )
    parser.add_argument("--only", type=lambda text: text.split(","), help="names of steps, up to their colon")
    parser.add_argument("--quick", action="store_true", help="a second each")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
