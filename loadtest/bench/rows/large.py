"""Large inputs: tensors of 600 KB through one gateway process and one worker."""

from __future__ import annotations

from io import BytesIO

import numpy as np

from loadtest.bench.figures import Figure, Outcome, Run, median
from loadtest.bench.rows.echo import MODEL, driven
from loadtest.bench.system import smartbatch

SHAPE = (1, 3, 224, 224)  # float32: 602,112 bytes
MB_PER_S = 300.0
CONNECTIONS = 16


def measure(run: Run) -> Outcome:
    body = npy()
    with smartbatch(MODEL) as system:
        driven(system, body, CONNECTIONS, 1, content_type="application/x-npy")
        rounds = []
        for number in range(run.rounds(3)):
            run.say(f"large: {len(body):,} bytes, {CONNECTIONS} connections, round {number + 1}")
            rounds.append(driven(system, body, CONNECTIONS, run.seconds(5), content_type="application/x-npy"))
        resident = system.resident_mb()
    rate = median([each["requests_per_s"] for each in rounds])
    figures = [
        Figure("request bodies", round(rate * len(body) / 1e6, 1), "MB/s", MB_PER_S),
        Figure("CPU per 1,000 requests", median([each["cpu_s_per_1000_total"] for each in rounds]), "s"),
    ]
    return Outcome(figures, {"body_bytes": len(body), "rounds": rounds, "resident_mb": resident})


def npy(shape: tuple[int, ...] = SHAPE) -> bytes:
    out = BytesIO()
    np.save(out, np.random.default_rng(1).random(shape, np.float32))
    return out.getvalue()
