"""A worker whose model obeys hostile inputs: `python -m tests.chaos.worker`.

Its outputs are those of the simulated model, except for bodies that begin with a command: `!exit …`, `!segfault …`,
`!kill …`, `!hang …`, `!raise …`, `!memory …`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence

import numpy as np

from smartbatch.deploy.cli import main
from smartbatch.shared.wire import Payload
from smartbatch.worker import models
from smartbatch.worker.models.simulated import Simulated

FITS_ROWS = 4  # of a batch that contains a `!memory` row


class OutOfMemoryError(RuntimeError):
    """Stands in for torch's error, which the engine recognizes by its name."""


class Marked(bytes):
    """A row that names a fault to trigger."""

    deed: str


class Chaotic(Simulated):
    def decode(self, payload: Payload) -> list[bytes]:
        rows = super().decode(payload)
        body = getattr(payload.content, "data", b"")
        if not body.startswith(b"!"):
            return rows
        row = Marked(rows[0])
        row.deed = body[1:].split(b" ")[0].decode()
        return [row]

    def collate(self, rows: Sequence[bytes]) -> np.ndarray:
        for row in rows:
            if isinstance(row, Marked):
                do(row.deed, len(rows))
        return super().collate(rows)


def do(deed: str, company: int) -> None:
    match deed:
        case "exit":
            os._exit(1)
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(3600)
        case "raise":
            raise RuntimeError("this row raises")
        case "memory" if company > FITS_ROWS:
            raise OutOfMemoryError(f"{company} rows don't fit")


if __name__ == "__main__":
    models.resolve = lambda path: Chaotic(path.partition(":")[2])
    sys.argv = ["smartbatch", "worker"]
    main()
