"""Large inputs: send tensors of 600 KB through one gateway process and one worker."""

from __future__ import annotations

from io import BytesIO

import numpy as np

from loadtest.bench.figures import Figure, Outcome
from loadtest.bench.rows.echo import MODEL
from loadtest.bench.run import Run, closed_loop, median_of
from loadtest.system import smartbatch

SHAPE = (1, 3, 224, 224)  # float32: 602,112 bytes
MB_PER_S = 300.0
CONNECTIONS = 16


def row(run: Run) -> Outcome:
    out = BytesIO()
    np.save(out, np.random.default_rng(1).random(SHAPE, np.float32))
    body = out.getvalue()
    with smartbatch(MODEL) as system:
        load = {"": closed_loop(system, body, CONNECTIONS, content_type="application/x-npy")}
        rounds = run.interleave(f"large, {len(body):,} bytes, {CONNECTIONS} connections", load)[""]
        resident = system.resident_mb()
    rate = median_of(rounds, "requests_per_s")
    figures = [
        Figure("request bodies", round(rate * len(body) / 1e6, 1), "MB/s", MB_PER_S),
        Figure("CPU per 1,000 requests", median_of(rounds, "cpu_s_per_1000_total"), "s"),
    ]
    return Outcome(figures, {"body_bytes": len(body), "rounds": rounds, "resident_mb": resident})
