"""`python -m tests.chaos --seconds 60 [--seed N] [--rate 400] [--broker valkey|redis|cluster|sentinel] [--out FILE]`"""

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
from tests.chaos.evaluation import Evaluation, evaluate
from tests.chaos.run import Run, run
from tests.clusters import Servers

BROKERS = ["valkey", "redis", "cluster", "sentinel"]


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="How long things go wrong.")
@click.option("--seed", type=int, help="Of an earlier run, to have the same faults again.")
@click.option("--rate", default=400.0, show_default=True, help="Requests a second, whatever comes back.")
@click.option("--broker", type=click.Choice(BROKERS), default="valkey", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the evaluation there, as JSON.")
@click.option("--logs", type=click.Path(path_type=Path), help="Keep the processes' logs there.")
def main(seconds: float, seed: int | None, rate: float, broker: str, out: Path | None, logs: Path | None) -> None:
    """Inject random faults under load and check that no request is lost. Exit code 1 if one is."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    binary = shutil.which("redis-server") if broker == "redis" else str(embedded_broker.server_binary())
    if binary is None:
        raise click.UsageError("there is no redis-server on PATH")
    console = Console()
    console.print(f"chaos with --seed {seed} for {seconds:g} s at {rate:g} requests a second on {broker}")
    server = Servers(broker, binary) if broker in ("cluster", "sentinel") else Broker(binary, durable=True)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="smartbatch-chaos-") as folder, console.status("starting") as status:
            if logs:
                logs.mkdir(parents=True, exist_ok=True)
            result = asyncio.run(run(server, broker, logs or Path(folder), seed, seconds, rate, status.update))
    finally:
        server.stop()
    evaluation = evaluate(result)
    show(console, result, evaluation, time.monotonic() - started)
    if out:
        summary = {name: getattr(result, name) for name in ("seed", "seconds", "rate", "broker", "restarts", "faults")}
        out.write_bytes(
            msgspec.json.format(msgspec.json.encode({**summary, "evaluation": evaluation, "good": evaluation.good}))
        )
    sys.exit(0 if evaluation.good else 1)


def show(console: Console, result: Run, evaluation: Evaluation, elapsed_s: float) -> None:
    table = Table("requests", "count", title=f"seed {result.seed}, {len(result.faults)} faults, {elapsed_s:.0f} s")
    table.columns[1].justify = "right"
    for name, meaning in (
        ("sent", "sent"),
        ("answered", "answered once, and correctly"),
        ("rejected", "rejected with a time to come back"),
        ("hostile", "hostile, answered with their error"),
        ("abandoned", "abandoned by their client"),
        ("broken", "broken off by the kill -9 of their gateway"),
        ("late", "504, redelivered until the deadline"),
        ("lost", "lost"),
        ("duplicated", "answered twice"),
        ("wrong", "answered wrongly"),
        ("wrongly_failed", "valid, and failed"),
    ):
        table.add_row(meaning, f"{getattr(evaluation, name):,}", style="bold" if name in ("lost", "duplicated") else "")
    console.print(table)
    recovery = Table("fault", "times alone", "typical s", "longest s", title="until the next correct response")
    for name, times in sorted(evaluation.recovery_s.items()):
        middle = sorted(times)[len(times) // 2]
        recovery.add_row(name.replace("_", " "), str(len(times)), f"{middle:.2f}", f"{max(times):.2f}")
    console.print(recovery)
    console.print(f"slowest correct response: {evaluation.slowest_s:.1f} s")
    console.print(f"workers started again: {result.restarts}; dead workers detected: {result.dead_workers:g}")
    console.print(f"afterwards: {len(result.probes) - evaluation.failed_probes} of {len(result.probes)} were correct")
    console.print(f"left behind: {', '.join(evaluation.leftovers) or 'nothing'}")
    for request in evaluation.bad[:20]:
        console.print(f"  {request}", style="red", markup=False)
    console.print("[bold green]GOOD[/]" if evaluation.good else "[bold red]BAD[/]")


if __name__ == "__main__":
    main()
