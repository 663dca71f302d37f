"""R: photos through ResNet18 on one CPU thread, compared with decode and forward in a bare process.

Once with MAX_BATCH_SIZE of the bare process's best batch size, and once with 32, more than pays on a CPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from loadtest.bench.figures import Figure, Outcome
from loadtest.bench.run import Run, measure, median, median_of
from loadtest.generator.connection import request_bytes
from loadtest.generator.loops import poisson
from loadtest.generator.run import run_open_loop
from loadtest.generator.trace import percentile
from loadtest.system import ROOT, System, smartbatch

PHOTO = ROOT / "examples" / "cat.jpg"
SIZES = (1, 2, 4, 8, 16, 32)
CONNECTIONS = 64
SHARE = 0.95
REQUESTS_PER_S = 50.0
LARGE = 32  # a MAX_BATCH_SIZE
OPEN_SHARE = 0.7  # of the rate in the closed loop


def row(run: Run) -> Outcome:
    """Alternate with the bare process."""
    data = photo()
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        Path(file.name).write_bytes(data)
        run.log(f"R, a bare process, batches of {', '.join(map(str, SIZES))}")
        rates = _bare_rates(file.name, run.seconds(3), SIZES)
        best = max(SIZES, key=lambda size: rates[str(size)])
        bare, served = [], []
        with _serve(run, best) as system:
            measure(system, data, CONNECTIONS, 3, content_type="image/jpeg")
            for number in range(run.rounds(3)):
                run.log(f"R, bare process, then {CONNECTIONS} connections, round {number + 1}")
                bare.append(_bare_rates(file.name, run.seconds(8), (best,))[str(best)])
                served.append(measure(system, data, CONNECTIONS, run.seconds(8), content_type="image/jpeg"))
    large = _large(run, data)
    rate = median_of(served, "requests_per_s")
    figures = [
        Figure("of the bare process", rate, "req/s", round(SHARE * median(bare), 2)),
        Figure("throughput", rate, "req/s", REQUESTS_PER_S),
        Figure(f"MAX_BATCH_SIZE={LARGE}, throughput", median_of(large, "requests_per_s"), "req/s"),
        Figure(f"MAX_BATCH_SIZE={LARGE}, open loop, p50", median_of(large, "open_p50_ms"), "ms"),
    ]
    details = {"photo_bytes": len(data), "bare_rates": rates, "best_size": best, "bare": bare, "smartbatch": served}
    return Outcome(figures, {**details, "large": large})


@contextmanager
def _serve(run: Run, max_batch_size: int) -> Iterator[System]:
    settings = {"MODEL_WEIGHTS": "random", "TORCH_THREADS": 1, "DECODE_THREADS": 1, "MAX_BATCH_SIZE": max_batch_size}
    settings["OPTIMIZE"] = "none" if run.quick else "auto"
    with smartbatch("resnet18", DEVICE="cpu", **settings) as system:
        if not run.quick:
            run.log(f"R, MAX_BATCH_SIZE={max_batch_size}, until the network is compiled: minutes the first time")
            system.wait_until_compiled()
        yield system


def _large(run: Run, data: bytes) -> list[dict[str, Any]]:
    """Measure a closed loop, then an open loop of OPEN_SHARE of its rate."""
    rounds = []
    with _serve(run, LARGE) as system:
        measure(system, data, CONNECTIONS, 3, content_type="image/jpeg")
        request = request_bytes(system.port, data, content_type="image/jpeg")
        for number in range(run.rounds(3)):
            run.log(f"R, MAX_BATCH_SIZE={LARGE}, {CONNECTIONS} connections and an open loop, round {number + 1}")
            closed = measure(system, data, CONNECTIONS, run.seconds(8), content_type="image/jpeg")
            offered = OPEN_SHARE * closed["requests_per_s"]
            trace = run_open_loop(system.port, request, list(poisson(offered, run.seconds(20))))
            latencies = trace.latencies(200)
            open_loop = {
                "offered_per_s": round(offered, 2),
                "open_p50_ms": round(1000 * percentile(latencies, 0.5), 1),
                "open_p99_ms": round(1000 * percentile(latencies, 0.99), 1),
                "statuses": trace.statuses(),
            }
            rounds.append({**closed, **open_loop})
    return rounds


def photo() -> bytes:
    from PIL import Image

    out = BytesIO()
    Image.open(PHOTO).resize((224, 224)).save(out, "JPEG", quality=90)
    return out.getvalue()


def _bare_rates(photo: str, seconds: float, sizes: tuple[int, ...]) -> dict[str, float]:
    command = [sys.executable, "-m", "loadtest.servers.bare", photo, str(seconds), ",".join(map(str, sizes))]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout
    return json.loads(out)
