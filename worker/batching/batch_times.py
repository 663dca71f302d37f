"""How long batches take on this worker, with the claim before each: predicted by the cost model, and measured."""

from __future__ import annotations

import numpy as np

from smartbatch.worker.batching.cut import SLACK
from smartbatch.worker.core.cost_model import CostModel

_WEIGHT = 0.1  # of the newest measurement in a running mean


class BatchTimes:
    """Owned by the batcher."""

    def __init__(self, costs: CostModel) -> None:
        self._costs = costs
        self.claim_s = 0.001  # running mean of a claim's round trip
        self.row_size = 1  # to which rows are padded, as in the last batch
        self._row_s = 0.0  # running mean of a row's time on the device

    def record_claim(self, seconds: float) -> None:
        self.claim_s += _WEIGHT * (seconds - self.claim_s)

    def record_batch(self, rows: int, seconds: float) -> None:
        """Add a batch of at least one row that was on the device for `seconds`."""
        self._row_s += _WEIGHT * (seconds / rows - self._row_s) if self._row_s else seconds / rows

    def started(self) -> None:
        """Take the size of rows from warm-up."""
        self.row_size = self._costs.first_size or 1

    @property
    def row_s(self) -> float:
        """Seconds of a row on the device; 0 before anything has run."""
        return self._row_s or self._costs.estimate(1, self.row_size)

    def forward_s(self, rows: int) -> float:
        return self._costs.estimate(rows, self.row_size)

    def run_s(self, rows: int) -> float:
        """Return the predicted seconds of a batch with the claim before it."""
        return self.forward_s(rows) + self.claim_s

    def of(self, rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return `run_s` of many batches: cut.Costs."""
        return self._costs.estimates(rows, sizes) + self.claim_s

    def waiting_pays(self, rows: int) -> bool:
        """Return whether one row more in a batch costs less than a batch of its own."""
        return self.run_s(rows) + self.run_s(1) > SLACK * self.run_s(rows + 1)
