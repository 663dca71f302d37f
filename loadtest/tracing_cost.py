"""What tracing costs: processor time per 1,000 requests without it, with 1 % of the requests sampled, and with all.

    python -m loadtest.tracing_cost [--rounds 3] [--seconds 5]

With a model that does nothing, so that all there is to see is the path. The systems take turns, so that what else the
machine does meets each of them; a collector that throws all away runs in a process of its own and isn't counted.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import click

from loadtest.bench.figures import median
from loadtest.bench.rows.echo import BODY, MODEL, driven
from loadtest.bench.system import free_port, smartbatch

CONNECTIONS = 64


class _Sink(BaseHTTPRequestHandler):
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
@click.option("--sink", type=int, hidden=True)
def command(rounds: int, seconds: float, sink: int | None) -> None:
    """Measure, and print a line for each system."""
    if sink is not None:
        ThreadingHTTPServer(("127.0.0.1", sink), _Sink).serve_forever()
    port = free_port()
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": 0.01}
    kinds: dict[str, dict[str, Any]] = {"off": {}, "1 % sampled": {**endpoint, **ratio}, "all sampled": {**endpoint}}
    collector = subprocess.Popen([sys.executable, "-m", "loadtest.tracing_cost", "--sink", str(port)])
    try:
        with contextlib.ExitStack() as stack:
            systems = {kind: stack.enter_context(smartbatch(MODEL, **settings)) for kind, settings in kinds.items()}
            results: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
            for number in range(rounds + 1):
                for kind, system in systems.items():
                    result = driven(system, BODY, CONNECTIONS, seconds)
                    if number:  # the first warms
                        results[kind].append(result)
    finally:
        collector.kill()
    print("medians: CPU seconds per 1,000 requests of each role and of all, req/s, p50 and p99 in ms")
    print(f"{'':14}" + "".join(f"{what:>9}" for what in ("gateway", "worker", "broker", "all", "req/s", "p50", "p99")))
    for kind, each in results.items():
        roles = [
            median([result["cpu_s_per_1000"][role] for result in each]) for role in ("gateway", "worker", "broker")
        ]
        total = median([result["cpu_s_per_1000_total"] for result in each])
        rate, p50, p99 = (median([result[what] for result in each]) for what in ("requests_per_s", "p50_ms", "p99_ms"))
        cost = "".join(f"{value:9.4f}" for value in (*roles, total))
        print(f"{kind:14}{cost}{rate:9.0f}{p50:9.2f}{p99:9.2f}")


if __name__ == "__main__":
    command()
