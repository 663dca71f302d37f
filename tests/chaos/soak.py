"""Run a long steady load and sample the memory and open files of each process.

    python -m tests.chaos.soak --seconds 600 --out docs/soak.png

It prints a table and writes a plot and the samples as JSON. The exit code is 1 if anything grew or failed.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import click
import matplotlib as mpl
import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from smartbatch.deploy import embedded_broker
from tests.brokers import Broker
from tests.chaos import traffic
from tests.chaos.system import System
from tests.load import Load

EVERY_S = 2.0
SETTLED_S = 60.0  # by then caches, pools and the allocator's arenas have reached their size
GROWTH_BYTES = 8e6  # between the medians of the first and the last fifth of the time after that
GROWTH_FILES = 10


class Series(msgspec.Struct):
    """Samples of one process over time."""

    name: str
    seconds: list[float] = []
    rss_bytes: list[int] = []
    files: list[int] = []

    def growth(self) -> tuple[float, float]:
        """Return the growth of memory (bytes) and of open files after the settling time."""
        settled = [i for i, at in enumerate(self.seconds) if at >= min(SETTLED_S, self.seconds[-1] / 3)]
        fifth = max(1, len(settled) // 5)
        first, last = settled[:fifth], settled[-fifth:]

        def grown(values: list[int]) -> float:
            return median(values[i] for i in last) - median(values[i] for i in first)

        return grown(self.rss_bytes), grown(self.files)


@click.command()
@click.option("--seconds", default=600.0, show_default=True)
@click.option("--rate", default=200.0, show_default=True, help="Requests a second.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("soak.png"), show_default=True)
def main(seconds: float, rate: float, out: Path) -> None:
    """Run a steady load and report whether memory or open files grew."""
    console = Console()
    server = Broker(str(embedded_broker.server_binary()), durable=True)
    try:
        with tempfile.TemporaryDirectory() as folder, console.status("starting") as status:
            series, load = asyncio.run(_soak(server, Path(folder), seconds, rate, status.update))
    finally:
        server.stop()
    statuses = dict(sorted(load.statuses().items()))
    wrong = [a for a in load.sent if a.kind in ("plain", "large") and not a.correct]
    grown = [one.name for one in series if one.growth()[0] > GROWTH_BYTES or one.growth()[1] > GROWTH_FILES]
    table = Table("process", "memory at the end", "grown by", "open files", "grown by")
    for one in series:
        memory, files = one.growth()
        table.add_row(
            one.name, f"{one.rss_bytes[-1] / 1e6:.1f} MB", f"{memory / 1e6:+.1f} MB", str(one.files[-1]), f"{files:+g}"
        )
    console.print(table)
    console.print(f"{len(load.sent):,} requests in {seconds:g} s, by status {statuses}; {len(wrong)} wrong")
    _plot(series, out)
    out.with_suffix(".json").write_bytes(
        msgspec.json.encode({"seconds": seconds, "rate": rate, "statuses": statuses, "series": series})
    )
    sys.exit(1 if grown or wrong else 0)


async def _soak(broker: Broker, folder: Path, seconds: float, rate: float, say) -> tuple[list[Series], Load]:
    system = System(broker, folder)
    rng = random.Random(0)
    try:
        await system.start()
        named = [("broker", broker.process.pid)]
        named += [(f"gateway {n}", p.pid) for n, p in enumerate(system.gateways, 1)]
        named += [(f"worker {n}", p.pid) for n, p in enumerate(system.workers, 1)]
        series = [Series(name) for name, _ in named]
        processes = [psutil.Process(pid) for _, pid in named]
        async with Load(system.urls) as load:
            started = sampled_at = time.monotonic()
            sent = 0
            while (now := time.monotonic()) < started + seconds:
                traffic.begin(load, rng, traffic.kind(rng))
                sent += 1
                if now - sampled_at > EVERY_S:
                    sampled_at = now
                    for one, process in zip(series, processes, strict=True):
                        one.seconds.append(now - started)
                        one.rss_bytes.append(process.memory_info().rss)
                        one.files.append(process.num_fds())
                    say(f"{started + seconds - now:.0f} s left · {sent} sent · {load.statuses()[200]} answered")
                await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
            await load.finish()
    finally:
        await system.close()
    return series, load


def _plot(series: list[Series], out: Path) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (memory, files) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, layout="constrained")
    for one in series:
        minutes = [at / 60 for at in one.seconds]
        memory.plot(minutes, [value / 1e6 for value in one.rss_bytes], label=one.name, linewidth=1.4)
        files.plot(minutes, one.files, label=one.name, linewidth=1.4)
    memory.set(ylabel="resident memory, MB", title="Steady load: memory and open files of every process")
    files.set(ylabel="open files (with clients' connections)", xlabel="minutes")
    for axes in (memory, files):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    memory.legend(ncols=3, fontsize="small", loc="center")
    figure.savefig(out, dpi=130)


if __name__ == "__main__":
    main()
