"""Reference for texts: the embedding example's forward in one process and one thread, without a server.

    python -m loadtest.servers.bare_texts COUNT ORDER,ORDER   → {"ORDER": {"texts_per_s": …, "p50_ms": …}, …}

ORDER is `sorted` (all texts by length, in batches of 32), `arrival` (as they come, in batches of 32) or `single` (as
they come, one by one). `p50_ms` is the median time of a forward. The texts are tokens before the clock starts. The
result also has `longest_ms`, the median time of the longest text alone, and `tokens`, the tokens of each text.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch

from loadtest.workload.texts import docstrings

BATCH = 32
REPEATS = 9

EXAMPLE = Path(__file__).parents[2] / "examples" / "text_embedding.py"


@torch.inference_mode()
def seconds_each(model: Any, batches: list[list[torch.Tensor]]) -> list[float]:
    seconds = []
    for rows in batches:
        started = time.perf_counter()
        model.forward(model.collate(rows))  # (rows, 384) float32
        seconds.append(time.perf_counter() - started)
    return seconds


def _cut(rows: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def main() -> None:
    count, orders = int(sys.argv[1]), sys.argv[2].split(",")
    torch.set_num_threads(1)
    model = runpy.run_path(str(EXAMPLE))["TextEmbedding"]()
    model.load(torch.device("cpu"))
    rows = model.decode(SimpleNamespace(kind="text", content=docstrings()[:count]))  # each (length,) int64
    by_length = sorted(rows, key=len)
    batches = {
        "sorted": _cut(by_length),
        "arrival": _cut(rows),
        "single": [[row] for row in rows],
    }
    seconds_each(model, [by_length[:BATCH], *([row] for row in by_length[-3:])])  # warm-up
    result: dict[str, object] = {
        "tokens": list(map(len, rows)),
        "longest_ms": round(1000 * median(seconds_each(model, [by_length[-1:]] * REPEATS)), 2),
    }
    for order in orders:
        seconds = seconds_each(model, batches[order])
        result[order] = {
            "texts_per_s": round(count / sum(seconds), 2),
            "p50_ms": round(1000 * median(seconds), 2),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
