"""One measured stretch of load on a running system: a generator process, and the system's own figures beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from loadtest.bench.metrics import workers_ran
from loadtest.bench.system import ROOT, System
from loadtest.drive.order import Order

END_S = 10.0


class GeneratorFailed(Exception):
    """The process that sends ended by itself; says what it said."""


def drive(system: System, order: Order, *, batches: bool) -> Generator[tuple[str, dict[str, Any]]]:
    """Yield ("warm" | "begin" | "second" | "end", what was counted), about once a second.

    Closing the iterator ends the generator. With `batches`, each has `rows`, `batches` (run since the one
    before) and `queue` (waiting now), by /stats.
    """
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        path, said = Path(folder) / "order.json", Path(folder) / "stderr"
        order.save(path)
        with said.open("w") as stderr:
            generator = subprocess.Popen(
                [sys.executable, "-m", "loadtest.drive.generator", str(path)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,  # a Ctrl-C is ours to pass on
            )
        assert generator.stdin and generator.stdout
        try:
            watch = _Batches(system) if batches else None
            event = ""
            for line in generator.stdout:
                ((event, counted),) = json.loads(line).items()
                yield event, {**counted, **(watch.since() if watch and event != "end" else {})}
            if event != "end":
                raise GeneratorFailed(said.read_text()[-2000:] or "the generator ended")
        finally:
            generator.stdin.close()
            try:
                generator.wait(END_S)
            except subprocess.TimeoutExpired:
                generator.kill()
                generator.wait()
            generator.stdout.close()


class _Batches:
    """Counters of the workers, as they change."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._rows, self._batches, _ = workers_ran(system)

    def since(self) -> dict[str, float]:
        try:
            rows, batches, queue = workers_ran(self._system)
        except OSError:  # too busy to say; the next second has it all
            return {}
        news = {"rows": rows - self._rows, "batches": batches - self._batches, "queue": queue}
        self._rows, self._batches = rows, batches
        return news
