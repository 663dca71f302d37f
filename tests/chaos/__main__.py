"""`python -m tests.chaos --seconds 60 [--seed N] [--rate 400] [--broker valkey|redis] [--out FILE]`"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from smartbatch.deploy import embedded_broker
from tests.brokers import Broker
from tests.chaos.run import Run, run
from tests.chaos.verdict import Verdict, judge


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="How long things go wrong.")
@click.option("--seed", type=int, help="Of an earlier run, to have the same faults again.")
@click.option("--rate", default=400.0, show_default=True, help="Requests a second, whatever comes back.")
@click.option("--broker", type=click.Choice(["valkey", "redis"]), default="valkey", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the verdict there, as JSON.")
@click.option("--logs", type=click.Path(path_type=Path), help="Keep the processes' logs there.")
def main(seconds: float, seed: int | None, rate: float, broker: str, out: Path | None, logs: Path | None) -> None:
    """Let everything go wrong at random, and see whether a request is lost. Exit code 1 if one is."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    binary = str(embedded_broker.server_binary()) if broker == "valkey" else shutil.which("redis-server")
    if binary is None:
        raise click.UsageError("there is no redis-server on PATH")
    console = Console()
    console.print(f"chaos with --seed {seed} for {seconds:g} s at {rate:g} requests a second on {broker}")
    server = Broker(binary, durable=True)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="smartbatch-chaos-") as folder, console.status("starting") as status:
            if logs:
                logs.mkdir(parents=True, exist_ok=True)
            result = asyncio.run(run(server, broker, logs or Path(folder), seed, seconds, rate, status.update))
    finally:
        server.stop()
    verdict = judge(result)
    show(console, result, verdict, time.monotonic() - started)
    if out:
        summary = {name: getattr(result, name) for name in ("seed", "seconds", "rate", "broker", "restarts", "faults")}
        out.write_bytes(msgspec.json.format(msgspec.json.encode({**summary, "verdict": verdict, "good": verdict.good})))
    sys.exit(0 if verdict.good else 1)


def show(console: Console, result: Run, verdict: Verdict, took_s: float) -> None:
    table = Table("requests", "count", title=f"seed {result.seed}, {len(result.faults)} faults, {took_s:.0f} s")
    table.columns[1].justify = "right"
    for name, meaning in (
        ("sent", "sent"),
        ("answered", "answered once, and right"),
        ("refused", "refused with a time to come back"),
        ("hostile", "hostile, answered with their error"),
        ("abandoned", "abandoned by their client"),
        ("broken", "broken off by the kill -9 of their gateway"),
        ("late", "answered 504, having gone from one death to the next"),
        ("lost", "lost"),
        ("doubled", "answered twice"),
        ("wrong", "answered wrong"),
        ("punished", "innocent, and answered with an error"),
    ):
        table.add_row(meaning, f"{getattr(verdict, name):,}", style="bold" if name in ("lost", "doubled") else "")
    console.print(table)
    recovery = Table("fault", "times alone", "typical s", "longest s", title="until the next right answer")
    for name, times in sorted(verdict.recovery_s.items()):
        middle = sorted(times)[len(times) // 2]
        recovery.add_row(name.replace("_", " "), str(len(times)), f"{middle:.2f}", f"{max(times):.2f}")
    console.print(recovery)
    console.print(f"slowest right answer: {verdict.slowest_s:.1f} s")
    console.print(f"workers started again: {result.restarts}; convictions: {result.convictions:g}")
    console.print(f"afterwards: {len(result.proof) - verdict.unproved} of {len(result.proof)} requests answered right")
    console.print(f"left behind: {', '.join(verdict.leftovers) or 'nothing'}")
    for asked in verdict.bad[:20]:
        console.print(f"  {asked}", style="red", markup=False)
    console.print("[bold green]GOOD[/]" if verdict.good else "[bold red]BAD[/]")


if __name__ == "__main__":
    main()
