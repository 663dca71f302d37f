"""A worker whose model raises for one input in twenty, by its content: `python -m tests.system.failing_worker`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from smartbatch.deploy.cli import main
from smartbatch.worker import models
from smartbatch.worker.models.simulated import Simulated


class Failing(Simulated):
    def collate(self, rows: Sequence[bytes]) -> np.ndarray:
        if any(row[0] < 256 / 20 for row in rows):  # of the digest of the input
            raise RuntimeError("this row raises")
        return super().collate(rows)


if __name__ == "__main__":
    models.resolve = lambda path: Failing(path.partition(":")[2])
    sys.argv = ["smartbatch", "worker"]
    main()
