"""Measure how two models share one device, with and without turns (DEVICE_SHARE).

    python -m loadtest.device_sharing [--models PATH PATH] [--rows N N] [--waiting N N] [--think MS] [--seconds N]

Each model runs in a process with the worker's engine, without HTTP and broker. `--waiting` batches of each are
submitted at a time (2: a backlog); the first model's next one follows `--think` ms after the end of the last. The
default is 4 against 400 ms on a simulated device, which completes a batch before it starts another process's. With real
models (`--models resnet18 resnet50 --rows 1 64`) it shows what the device itself does with two processes.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import time
from concurrent.futures import Future
from typing import Any

from smartbatch.shared.broker.queue.claims import Entry
from smartbatch.shared.settings import Settings, from_environment
from smartbatch.worker.core.batch import Batch, ClaimedEntry
from smartbatch.worker.core.cost_model import CostModel
from smartbatch.worker.core.model import LoadContext
from smartbatch.worker.execution import device_share
from smartbatch.worker.execution.engine import Engine
from smartbatch.worker.models import resolve
from smartbatch.worker.observability.metrics import WorkerMetrics

SIMULATED = "simulated:base_ms={},row_ms=0,device=measured"
WARM_BATCHES = 3
TOGETHER_S = 1.5  # both run before the measurement: until each knows of the other


def main() -> None:
    options = _options()
    if options.child:
        child(json.loads(options.child))
        return
    rows, waiting = options.rows, options.waiting
    cases = [
        {"model": model, "name": name, "rows": rows[n], "waiting": waiting[n], "think_s": 0.0}
        for n, (name, model) in enumerate(zip(("first", "second"), options.models, strict=True))
    ]
    cases[0]["think_s"] = options.think / 1000
    for share in options.share:
        found = measure(cases, share, options.seconds)
        for case, result in zip(cases, found, strict=True):
            print(f"{share:5} {case['model']:50} {line(result)}", flush=True)


def measure(cases: list[dict[str, Any]], share: str, seconds: float) -> list[dict[str, float]]:
    """Run the cases at the same time, one process each. Returns the results in their order."""
    command = [sys.executable, "-m", "loadtest.device_sharing", "--child"]
    children = [
        subprocess.Popen(
            [*command, json.dumps({**case, "share": share, "seconds": seconds})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for case in cases
    ]
    try:
        for process in children:  # one after the other: each measures its batch while the others are idle
            _say(process, "measure")
            assert process.stdout and process.stdout.readline() == "measured\n", "the process has failed"
        for process in children:
            _say(process, "start")
        return [json.loads(process.communicate()[0]) for process in children]
    finally:
        for process in children:
            process.kill()


def _say(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin
    process.stdin.write(word + "\n")
    process.stdin.flush()


def line(result: dict[str, float]) -> str:
    return (
        f"{result['per_s']:6.1f} batches/s, p50 {result['p50_ms']:.1f}, p99 {result['p99_ms']:.1f}, "
        f"max {result['max_ms']:.1f} ms; {result['device']:.1%} of the device's time, {result['cpu']:.1%} of a core"
    )


def child(case: dict[str, Any]) -> None:
    """Run one model. Prints the results as JSON."""
    settings = from_environment(model_path=case["model"], model_name=case["name"], device_share=case["share"])
    runner = Runner(settings, case["rows"])
    sys.stdin.readline()
    alone_s = min(runner.run_one() for _ in range(WARM_BATCHES))
    print("measured", flush=True)
    sys.stdin.readline()
    runner.run_for(case["waiting"], case["think_s"], TOGETHER_S)
    cpu = time.process_time()
    latencies = runner.run_for(case["waiting"], case["think_s"], case["seconds"])
    cpu = time.process_time() - cpu
    ordered = sorted(latencies)
    print(
        json.dumps(
            {
                "per_s": len(ordered) / case["seconds"],
                "p50_ms": ordered[len(ordered) // 2] * 1000,
                "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
                "max_ms": ordered[-1] * 1000,
                "alone_ms": alone_s * 1000,
                "device": len(ordered) * alone_s / case["seconds"],
                "cpu": cpu / case["seconds"],
            }
        )
    )


class Runner:
    """A loaded model and its engine."""

    def __init__(self, settings: Settings, rows: int) -> None:
        self._model = resolve(settings.model_path)
        self._engine = Engine(self._model, rows, CostModel(), WorkerMetrics(settings.model, "w"))
        self._rows = rows
        self._done: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        self._engine.on_done = self._done.put
        self._submitted_at: dict[str, float] = {}
        self._batches = 0
        loaded: Future[None] = Future()

        def load() -> None:
            try:
                self._model.load(LoadContext.of(settings, weights="random"))
                self._engine.share = device_share.join(settings, self._model.device_id)
                loaded.set_result(None)
            except BaseException as error:
                loaded.set_exception(error)

        self._engine.start()
        self._engine.call(load)
        loaded.result()

    def run_one(self) -> float:
        """Run a batch. Returns its seconds."""
        self._submit()
        return self._finished()

    def run_for(self, waiting: int, think_s: float, seconds: float) -> list[float]:
        """Keep so many batches submitted. Returns the seconds of those that ended in time, from submission to end."""
        end, latencies = time.monotonic() + seconds, []
        for _ in range(waiting):
            self._submit()
        while time.monotonic() < end:
            latency = self._finished()
            if time.monotonic() < end:
                latencies.append(latency)
            if think_s:
                time.sleep(think_s)
            self._submit()
        for _ in range(waiting):
            self._finished()
        return latencies

    def _submit(self) -> None:
        self._batches += 1
        now, row = time.monotonic(), self._model.example()
        entry = Entry("1-0", "r", "g", 0, 600_000, self._rows, 1, "raw", "", b"")
        claimed = ClaimedEntry(entry, 0, now)
        claimed.rows, claimed.decoded = [row] * self._rows, Future()
        claimed.decoded.set_result(None)
        batch = Batch(str(self._batches), [claimed], "full")
        self._submitted_at[batch.id] = now
        self._engine.submit(batch)

    def _finished(self) -> float:
        batch = self._done.get()
        if error := batch.claimed_entries[0].error:
            raise error
        return time.monotonic() - self._submitted_at.pop(batch.id)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    models = [SIMULATED.format(4), SIMULATED.format(400)]
    parser.add_argument("--models", nargs=2, default=models, help="two values of MODEL_PATH")
    parser.add_argument("--rows", nargs=2, type=int, default=[1, 1], help="rows of a batch of each")
    parser.add_argument("--waiting", nargs=2, type=int, default=[2, 2], help="batches of each submitted at a time")
    parser.add_argument("--think", type=float, default=0.0, help="ms between a batch of the first model and its next")
    parser.add_argument("--share", nargs="+", default=["off", "on"], help="values of DEVICE_SHARE")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
