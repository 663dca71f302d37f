"""The system under study. It is started anew only for what can't be changed while it serves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing

from loadtest.bench.system import ROOT, System
from loadtest.drive import servers
from loadtest.drive.driving import drive
from loadtest.drive.order import Load, Order
from loadtest.drive.servers import Served
from loadtest.study.levels import Level, level
from loadtest.study.space import Settings
from loadtest.traffic.asking import alone
from loadtest.traffic.bodies import Body

APPLY_S = 10.0
WARM_S = 1.0
WARM_MOST_S = 15.0


class Tuned:
    """A context manager; `apply` first, then `measure`."""

    def __init__(self, served: Served, largest_batch: int, bodies: list[Body], say: Callable[[str], None]) -> None:
        self._served = served
        self._largest_batch = largest_batch
        self._bodies = bodies
        self._say = say
        self._system: System | None = None
        self._started_with: tuple[int, int] | None = None
        self._references: dict = {}

    def __enter__(self) -> Tuned:
        return self

    def __exit__(self, *_: object) -> None:
        if self._system:
            self._system.__exit__()
            self._system = None

    def apply(self, settings: Settings) -> None:
        """Return once every worker batches by these settings."""
        if self._system is None or self._started_with != settings.started_with:
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
        deadline = time.monotonic() + APPLY_S
        while self._batching() != {(settings.MAX_BATCH_SIZE, settings.MAX_WAIT_TIME)}:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the workers did not take over {settings} within {APPLY_S:g} s")
            time.sleep(0.1)

    def measure(self, load: Load, seconds: int) -> Level:
        assert self._system
        order = Order(
            port=self._system.port,
            load=load,
            seconds=seconds,
            bodies=self._bodies,
            references=self._references,
            warm_s=WARM_S,
            warm_most_s=WARM_MOST_S,
        )
        with closing(drive(self._system, order, batches=True)) as events:
            return level(load.amount, list(events))

    def _start(self, settings: Settings) -> None:
        self._say(f"starting {settings.workers} worker(s), DECODE_THREADS={settings.DECODE_THREADS}")
        more = {"MAX_BATCH_SIZE": str(self._largest_batch), "DECODE_THREADS": str(settings.DECODE_THREADS)}
        served = self._served._replace(workers=settings.workers, settings={**self._served.settings, **more})
        self._system = servers.start("smartbatch", served).__enter__()
        self._started_with = settings.started_with
        self._references = alone(f"{self._system.url}/predict", self._bodies)

    def _batching(self) -> set[tuple[int, float]]:
        """What each worker says it batches by."""
        assert self._system
        (model,) = json.loads(self._system.get("/stats"))["models"].values()
        return {(each["max_batch_size"], float(each["max_wait_time"])) for each in model["workers"].values()}
