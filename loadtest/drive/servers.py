"""Starting what is measured: the baseline or SmartBatch, with the same model and the same settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from loadtest.bench.system import FOREIGN, ROOT, System, free_port, smartbatch

# What a shell may hold that changes what is measured; it is written down with the result.
SETTINGS = (
    *("MAX_BATCH_SIZE", "MAX_WAIT_TIME", "WINDOW", "MAX_BATCH_BYTES", "MAX_QUEUE", "MAX_QUEUE_BYTES"),
    *("REQUEST_TIMEOUT", "GATEWAY_PROCESSES", "DECODE_THREADS", "TORCH_THREADS", "MAX_IMAGE_PIXELS", "MAX_BODY_BYTES"),
    *("DEVICE", "DTYPE", "OPTIMIZE"),
)
LOAD_S = 600.0  # a first download of weights too


class ModelFailed(Exception):
    """The model can't be loaded; the text is the server's own."""


class Served(NamedTuple):
    """A model, and the settings under which it is served."""

    model: str
    weights: str
    workers: int
    settings: dict[str, str]

    def environ(self) -> dict[str, str]:
        """OPTIMIZE is none unless it was given: a worker that compiles beside serving would be measured doing so."""
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        return {
            "MODEL_PATH": self.model,
            "MODEL_WEIGHTS": self.weights,
            "OPTIMIZE": "none",
            "TORCH_THREADS": str(threads),
            "MANAGEMENT_PORT": "-1",
            "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH", ""), str(Path.cwd())))),
            **self.settings,
        }


def from_shell() -> dict[str, str]:
    """The settings that are set in the environment."""
    return {name: os.environ[name] for name in SETTINGS if os.environ.get(name)}


def at_home(path: str) -> str:
    """A file's absolute path, since servers run elsewhere; anything else as it is."""
    return str(Path(path).resolve()) if Path(path).is_file() else path


def start(side: str, served: Served) -> System:
    """Return the system that is starting; it is a context manager."""
    environ = served.environ()
    if side == "baseline":
        port = free_port()
        return System(["-m", "loadtest.baseline", "serve", str(port)], port, 0, **environ)
    return smartbatch(served.model, served.workers, **environ)


def describe(served: Served) -> dict[str, Any]:
    """What the model takes, as the baseline prints it. Loads the model once. Raises ModelFailed."""
    environ = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    said = subprocess.run(
        [sys.executable, "-m", "loadtest.baseline", "describe"],
        cwd=ROOT,
        env={**environ, **served.environ()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LOAD_S,
    )
    if said.returncode:
        raise ModelFailed(said.stderr.strip().rpartition("\n")[2].removeprefix("baseline: "))
    return json.loads(said.stdout)
