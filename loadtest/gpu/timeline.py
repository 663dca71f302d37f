"""Where the time of a batch goes on the device: a profile of ten batches of the engine."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from loadtest.gpu.engine import engine
from smartbatch.worker.core.model import LoadContext
from smartbatch.worker.models import resolve

PROFILED_S = 0.3
ROWS = 30  # of the table
COPIES = ("Memcpy", "Memset")


def timeline(name: str, context: LoadContext, size: int, out: Path) -> dict[str, Any]:
    """Profile the engine with batches of `size`. Writes timeline.txt and, for a viewer, timeline.json.

    Returns the share of the time in which the device ran a kernel, and the share of its copies that ran beside one.
    """
    model = resolve(name)
    model.load(context)
    activities = [ProfilerActivity.CPU]
    if context.device.startswith("cuda"):
        activities.append(ProfilerActivity.CUDA)
    everywhere = _ExperimentalConfig(profile_all_threads=True)  # the engine launches in a thread of its own
    with profile(activities=activities, experimental_config=everywhere) as profiler:
        engine(model, [[model.example()] * size], PROFILED_S)
    out.mkdir(parents=True, exist_ok=True)
    key = "self_cuda_time_total" if len(activities) > 1 else "self_cpu_time_total"
    (out / "timeline.txt").write_text(profiler.key_averages().table(sort_by=key, row_limit=ROWS))
    profiler.export_chrome_trace(str(out / "timeline.json"))
    on_device = [event for event in profiler.events() or () if "CUDA" in str(event.device_type)]
    spans = {
        is_copy: [
            (event.time_range.start, event.time_range.end)
            for event in on_device
            if event.name.startswith(COPIES) is is_copy
        ]
        for is_copy in (False, True)
    }
    return shares(spans[False], spans[True])


def shares(kernels: list[tuple[float, float]], copies: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the share of the time from the first kernel to the last in which one ran, and of the copies' time in which
    one ran. Empty without a device. Spans are (start, end)."""
    if not kernels:
        return {}
    busy = merged(kernels)
    whole = busy[-1][1] - busy[0][0]
    copied = merged(copies)
    hidden = sum(max(0.0, min(e1, e2) - max(s1, s2)) for s1, e1 in busy for s2, e2 in copied)
    return {
        "device_busy": round(sum(end - start for start, end in busy) / whole, 4),
        "copies_hidden": round(hidden / sum(end - start for start, end in copied), 4) if copied else None,
        "longest_gap_us": round(max((b[0] - a[1] for a, b in itertools.pairwise(busy)), default=0.0), 1),
    }


def merged(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the union of spans, in order."""
    union: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((start, end))
    return union
