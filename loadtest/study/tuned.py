"""The system under study. It is restarted only for settings that cannot be changed while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing
from typing import Any

from loadtest.generator.process import Load, LoadSpec, run_load
from loadtest.progress import log
from loadtest.served_model import ServedModel
from loadtest.study.levels import Level, level
from loadtest.study.space import Settings
from loadtest.system import ROOT, System
from loadtest.workload.bodies import Body
from loadtest.workload.reference import reference_results

APPLY_TIMEOUT_S = 10.0
WARM_S = 1.0
MAX_WARM_S = 15.0


class TunedSystem:
    """A context manager; `apply` first, then `measure`."""

    def __init__(self, served: ServedModel, largest_batch: int, bodies: list[Body]) -> None:
        self._served = served
        self._largest_batch = largest_batch
        self._bodies = bodies
        self._system: System | None = None
        self._started_with: tuple[int, int] | None = None
        self._references: dict[str, Any] = {}

    def __enter__(self) -> TunedSystem:
        return self

    def __exit__(self, *_: object) -> None:
        if self._system:
            self._system.__exit__()
            self._system = None

    def apply(self, settings: Settings) -> None:
        """Apply the settings and wait until every worker uses them."""
        if self._system is None or self._started_with != (settings.workers, settings.DECODE_THREADS):
            self.__exit__()
            self._start(settings)
        assert self._system
        url = f"redis://127.0.0.1:{self._system.broker_port()}/0"
        size, wait = str(settings.MAX_BATCH_SIZE), f"{settings.MAX_WAIT_TIME:g}"
        command = [
            sys.executable,
            "-m",
            "smartbatch.deploy.cli",
            "limits",
            "--redis-url",
            url,
            "--model",
            self._served.model,
        ]
        command += ["--max-batch-size", size, "--max-wait-time", wait]
        ended = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        if ended.returncode:
            raise RuntimeError(f"smartbatch limits failed: {ended.stderr.strip()}")
        deadline = time.monotonic() + APPLY_TIMEOUT_S
        while self._limits() != {(settings.MAX_BATCH_SIZE, settings.MAX_WAIT_TIME)}:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the workers did not apply {settings} within {APPLY_TIMEOUT_S:g} s")
            time.sleep(0.1)

    def measure(self, load: Load, seconds: int) -> Level:
        assert self._system
        spec = LoadSpec(
            port=self._system.port,
            load=load,
            seconds=seconds,
            bodies=self._bodies,
            references=self._references,
            warm_s=WARM_S,
            max_warm_s=MAX_WARM_S,
        )
        with closing(run_load(self._system, spec, watch_batches=True)) as events:
            return level(load.amount, list(events))

    def _start(self, settings: Settings) -> None:
        log(f"starting {settings.workers} worker(s), DECODE_THREADS={settings.DECODE_THREADS}")
        more = {"MAX_BATCH_SIZE": str(self._largest_batch), "DECODE_THREADS": str(settings.DECODE_THREADS)}
        served = self._served._replace(workers=settings.workers, settings={**self._served.settings, **more})
        self._system = served.start("smartbatch").__enter__()
        self._started_with = settings.workers, settings.DECODE_THREADS
        self._references = reference_results(f"{self._system.url}/predict", self._bodies)

    def _limits(self) -> set[tuple[int, float]]:
        """Return the limits that the workers report."""
        assert self._system
        (model,) = json.loads(self._system.get("/stats"))["models"].values()
        return {(each["max_batch_size"], float(each["max_wait_time"])) for each in model["workers"].values()}
