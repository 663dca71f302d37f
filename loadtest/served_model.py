"""The model that benchmark and study serve. Baseline and SmartBatch get the same settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

from loadtest.system import ROOT, System, environment, reference_server, smartbatch

# Read from the caller's environment and stored with the result.
SETTINGS = (
    *("MAX_BATCH_SIZE", "MAX_WAIT_TIME", "WINDOW", "MAX_BATCH_BYTES", "MAX_BATCH_TOKENS", "POOL"),
    *("MAX_QUEUE", "MAX_QUEUE_BYTES"),
    *("REQUEST_TIMEOUT", "GATEWAY_PROCESSES", "DECODE_THREADS", "TORCH_THREADS", "MAX_IMAGE_PIXELS", "MAX_BODY_BYTES"),
    *("DEVICE", "DTYPE", "OPTIMIZE"),
)
LOAD_TIMEOUT_S = 600.0  # includes a first download of weights

Side = Literal["baseline", "smartbatch"]


class ModelFailed(RuntimeError):
    """The model cannot be loaded; the text is the server's error."""


class ServedModel(NamedTuple):
    model: str
    weights: str
    workers: int
    settings: dict[str, str]

    @staticmethod
    def from_options(model: str, weights: str, workers: int) -> ServedModel:
        settings = {name: os.environ[name] for name in SETTINGS if os.environ.get(name)}
        return ServedModel(_absolute(model), _absolute(weights), workers, settings)

    def start(self, side: Side) -> System:
        """Start the server. The system is a context manager; entering it waits until the server is ready."""
        if side == "baseline":
            return reference_server("baseline", **self._environ())
        return smartbatch(self.model, self.workers, **self._environ())

    def describe(self) -> dict[str, Any]:
        """Load the model once and return its metadata. Raises ModelFailed."""
        described = subprocess.run(
            [sys.executable, "-m", "loadtest.servers.baseline", "describe"],
            cwd=ROOT,
            env=environment(**self._environ()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LOAD_TIMEOUT_S,
        )
        if described.returncode:
            raise ModelFailed(described.stderr.strip().rpartition("\n")[2].removeprefix("baseline: "))
        return json.loads(described.stdout)

    def _environ(self) -> dict[str, str]:
        """Return the servers' environment. OPTIMIZE defaults to none, since compiling would disturb the measurement."""
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


def _absolute(path: str) -> str:
    """Make a file's path absolute, since servers run in another directory. Return anything else unchanged."""
    return str(Path(path).resolve()) if Path(path).is_file() else path
