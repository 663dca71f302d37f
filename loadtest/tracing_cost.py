"""Measure the cost of tracing: CPU time per 1,000 requests without it, with 1 % of requests sampled, and with all.

    python -m loadtest.tracing_cost [--rounds 3] [--seconds 5]

The model does nothing, so only the path of a request is measured. A collector that discards all spans runs in another
process, which is not counted.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import click

from loadtest.bench.rows.echo import BODY, MODEL
from loadtest.bench.run import Run, closed_loop, median, median_of
from loadtest.system import free_port, smartbatch

CONNECTIONS = 64
ROLES = ("gateway", "worker", "broker")


class _Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=5.0, show_default=True, help="Of each system in each round.")
@click.option("--collector", type=int, hidden=True)
def command(rounds: int, seconds: float, collector: int | None) -> None:
    """Measure each system and print a line for it."""
    if collector is not None:
        ThreadingHTTPServer(("127.0.0.1", collector), _Collector).serve_forever()
    port = free_port()
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": 0.01}
    kinds: dict[str, dict[str, Any]] = {"off": {}, "1 % sampled": {**endpoint, **ratio}, "all sampled": endpoint}
    process = subprocess.Popen([sys.executable, "-m", "loadtest.tracing_cost", "--collector", str(port)])
    try:
        with contextlib.ExitStack() as stack:
            systems = {kind: stack.enter_context(smartbatch(MODEL, **settings)) for kind, settings in kinds.items()}
            loads = {kind: closed_loop(system, BODY, CONNECTIONS) for kind, system in systems.items()}
            results = Run().interleave("tracing", loads, rounds=rounds, seconds=seconds, warm_s=seconds)
    finally:
        process.kill()
    print("medians: CPU seconds per 1,000 requests of each role and of all, req/s, p50 and p99 in ms")
    print(f"{'':14}" + "".join(f"{column:>9}" for column in (*ROLES, "all", "req/s", "p50", "p99")))
    for kind, each in results.items():
        costs = [median([result["cpu_s_per_1000"][role] for result in each]) for role in ROLES]
        columns = ("cpu_s_per_1000_total", "requests_per_s", "p50_ms", "p99_ms")
        total, rate, p50, p99 = (median_of(each, column) for column in columns)
        cost = "".join(f"{value:9.4f}" for value in (*costs, total))
        print(f"{kind:14}{cost}{rate:9.0f}{p50:9.2f}{p99:9.2f}")


if __name__ == "__main__":
    command()
