"""R: photos through ResNet18 on one CPU thread, compared with decode and forward in a bare process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from loadtest.bench.figures import Figure, Outcome
from loadtest.bench.run import Run, measure, median, median_of
from loadtest.system import ROOT, smartbatch

PHOTO = ROOT / "examples" / "cat.jpg"
SIZES = (1, 2, 4, 8, 16, 32)
CONNECTIONS = 64
SHARE = 0.95
REQUESTS_PER_S = 50.0


def row(run: Run) -> Outcome:
    """Alternate with the bare process. MAX_BATCH_SIZE is the bare process's best batch size."""
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        data = photo()
        Path(file.name).write_bytes(data)
        run.log(f"R, a bare process, batches of {', '.join(map(str, SIZES))}")
        rates = _bare_rates(file.name, run.seconds(3), SIZES)
        best = max(SIZES, key=lambda size: rates[str(size)])
        bare, served = [], []
        settings = {"MODEL_WEIGHTS": "random", "TORCH_THREADS": 1, "DECODE_THREADS": 1, "MAX_BATCH_SIZE": best}
        settings["OPTIMIZE"] = "none" if run.quick else "auto"
        with smartbatch("resnet18", DEVICE="cpu", **settings) as system:
            if not run.quick:
                run.log("R, until the network is compiled, which takes minutes the first time")
                system.wait_until_compiled()
            measure(system, data, CONNECTIONS, 3, content_type="image/jpeg")
            for number in range(run.rounds(3)):
                run.log(f"R, bare process, then {CONNECTIONS} connections, round {number + 1}")
                bare.append(_bare_rates(file.name, run.seconds(8), (best,))[str(best)])
                served.append(measure(system, data, CONNECTIONS, run.seconds(8), content_type="image/jpeg"))
    rate = median_of(served, "requests_per_s")
    figures = [
        Figure("of the bare process", rate, "req/s", round(SHARE * median(bare), 2)),
        Figure("throughput", rate, "req/s", REQUESTS_PER_S),
    ]
    details = {"photo_bytes": len(data), "bare_rates": rates, "best_size": best, "bare": bare, "smartbatch": served}
    return Outcome(figures, details)


def photo() -> bytes:
    from PIL import Image

    out = BytesIO()
    Image.open(PHOTO).resize((224, 224)).save(out, "JPEG", quality=90)
    return out.getvalue()


def _bare_rates(photo: str, seconds: float, sizes: tuple[int, ...]) -> dict[str, float]:
    command = [sys.executable, "-m", "loadtest.servers.bare", photo, str(seconds), ",".join(map(str, sizes))]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout
    return json.loads(out)
