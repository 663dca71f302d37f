"""The plots of docs/scale.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

from simulation.system import Result

mpl.use("agg")
from matplotlib import pyplot as plt

DPI = 110


def consolidation(drawn: Mapping[str, Sequence[tuple[float, float, float, float]]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(drawn), figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, (pattern, points) in zip(axes, drawn.items(), strict=True):
        loads = [100 * load for load, *_ in points]
        axis.plot(loads, [reference for _, reference, _, _ in points], "k--", label="one in-process queue")
        axis.plot(loads, [0.9 * reference for _, reference, _, _ in points], "k:", linewidth=1, label="90 % of it")
        axis.plot(loads, [adaptive for _, _, adaptive, _ in points], "o-", label="8 workers over the broker")
        axis.plot(loads, [fixed for *_, fixed in points], ".-", alpha=0.5, label="the same, WINDOW=fixed")
        axis.set(title=pattern, xlabel="offered load, % of capacity", ylim=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean rows in a batch")
    axes[0].legend()
    _save(figure, path)


def scale(drawn: Mapping[str, Sequence[tuple[int, Result]]], per_worker: float, path: Path) -> None:
    figure, (goodput, batch) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for load, points in drawn.items():
        workers = [count for count, _ in points]
        goodput.loglog(workers, [result.goodput for _, result in points], "o-", label=f"offered {load} of the devices")
        batch.semilogx(workers, [result.mean_batch for _, result in points], "o-", label=f"offered {load}")
    workers = [count for count, _ in next(iter(drawn.values()))]
    goodput.loglog(workers, [count * per_worker for count in workers], "k--", linewidth=1, label="the devices alone")
    goodput.set(xlabel="workers on one broker", ylabel="in time, requests/s")
    batch.set(xlabel="workers on one broker", ylabel="mean rows in a batch", ylim=(0, 33))
    for axis in (goodput, batch):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    _save(figure, path)


def partitions(drawn: Sequence[tuple[int, Result]], path: Path) -> None:
    figure, (goodput, latency) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    brokers = [count for count, _ in drawn]
    goodput.plot(brokers, [count * result.goodput / 1e6 for count, result in drawn], "o-", label="in time")
    goodput.axhline(1, color="k", linestyle="--", linewidth=1, label="offered")
    goodput.set(xlabel="brokers", ylabel="million requests/s", ylim=(0, 1.1))
    latency.plot(brokers, [result.p50_ms for _, result in drawn], "o-", label="p50")
    latency.plot(brokers, [result.p99_ms for _, result in drawn], "s-", label="p99")
    latency.set(xlabel="brokers", ylabel="latency of those in time, ms", yscale="log")
    for axis in (goodput, latency):
        axis.grid(alpha=0.3)
        axis.legend()
    _save(figure, path)


def _save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
