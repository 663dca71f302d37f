"""A whole system for one test: gateway and workers as real processes on a broker of the session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
import httpx
import redis

from tests.brokers import Broker, eventually
from tests.clusters import Servers

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "smartbatch.deploy.cli"]


class Process:
    """One of our processes, started by the test and ended by it."""

    def __init__(self, command: Sequence[str], environ: dict[str, str], log: Path) -> None:
        self.log = log
        self.url = ""  # of a gateway
        with log.open("wb") as out:
            self.popen = subprocess.Popen(
                command,
                env={**os.environ, **environ},
                cwd=ROOT,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def stop(self, name: signal.Signals = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """Signal it and return its exit code."""
        self.popen.send_signal(name)
        return self.popen.wait(timeout_s)

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()


class Stack:
    """Start with `up()`, or with `gateway()` and `worker()`; `close` ends everything that still runs."""

    def __init__(self, broker: Broker | Servers, folder: Path, **settings: object) -> None:
        self.broker = broker
        self.folder = folder
        # none: most tests don't depend on the variant, and compiling would slow them down
        self.environ = {
            "REDIS_URL": broker.url,
            "PORT": "0",
            "OPTIMIZE": "none",
            **{k: str(v) for k, v in settings.items()},
        }
        self.processes: list[Process] = []
        self.url = ""
        self.client = httpx.Client(timeout=30)

    def up(self, workers: int = 1) -> Stack:
        """Start a gateway and this many workers concurrently, and wait until all are ready."""
        gateway = self.start("gateway", {})
        for _ in range(workers):
            self.worker()
        self._serving(gateway)
        return self.ready(workers)

    def gateway(self, **settings: object) -> Process:
        """Start a gateway on a free port; the last one started is `self.url`."""
        return self._serving(self.start("gateway", settings))

    def _serving(self, process: Process) -> Process:
        def address() -> str:
            assert process.popen.poll() is None, process.log.read_text()
            lines = [line for line in process.log.read_text().splitlines() if "gateway on " in line]
            return lines[-1].split("gateway on ")[1].split(",")[0] if lines else ""

        self.url = process.url = eventually(address, 20)
        eventually(self._responds, 20)
        return process

    def grpc_gateway(self, *, ready: bool = True, **settings: object) -> Process:
        """Start a gRPC gateway on a free port, and wait until it is `ready`; its `url` is host:port."""
        process = self.start("gateway", {"GRPC_PORT": 0, **settings}, [*COMMAND, "gateway", "--grpc"])

        def address() -> str:
            assert process.popen.poll() is None, process.log.read_text()
            lines = [line for line in process.log.read_text().splitlines() if "gRPC gateway on " in line]
            return lines[-1].split("gRPC gateway on ")[1].split(",")[0] if lines else ""

        process.url = eventually(address, 20)
        if ready:
            with grpc.insecure_channel(process.url) as channel:
                is_ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
                eventually(lambda: is_ready(b"", wait_for_ready=True, timeout=20) == b"\x08\x01", 20, 0.05)
        return process

    def worker(self, **settings: object) -> Process:
        return self.start("worker", settings)

    def ready(self, workers: int = 1, timeout_s: float = 60.0) -> Stack:
        """Wait until this many workers are ready."""

        def enough() -> bool:
            for process in self.processes:
                assert process.popen.poll() in (None, 0, -9, -15), process.log.read_text()
            return self.ready_workers() >= workers

        eventually(enough, timeout_s, 0.05)
        return self

    def ready_workers(self) -> int:
        """The number of running worker processes that are ready; 0 while the gateway isn't."""
        if not self.client.get(f"{self.url}/readyz").json()["ready"]:
            return 0
        return sum(report.get("state") == "ready" for report in self._live_workers())

    def predict(self, content: bytes = b"", **how) -> httpx.Response:
        return self.client.post(f"{self.url}/predict", content=content, **how)

    def stats(self, model: str = "simulated") -> dict:
        return self.client.get(f"{self.url}/stats").json()["models"][model]

    def held_by(self, worker: Process, model: str = "simulated") -> int:
        """Entries pending for one worker."""
        return self.pending(model).get(self.name_of(worker, model), 0)

    def name_of(self, worker: Process, model: str = "simulated") -> str:
        reports = self.stats(model)["workers"]
        return next((name for name, report in reports.items() if report["pid"] == worker.pid), "")

    def pending(self, model: str = "simulated") -> dict[str, int]:
        """Entries pending for each worker that Redis knows; it forgets a dead one once its entries have been run."""
        try:
            consumers = self.broker.sync.xinfo_consumers(f"smartbatch:{{{model}}}:requests", "workers")
        except redis.ResponseError:
            return {}  # no stream yet
        return {consumer["name"].decode(): consumer["pending"] for consumer in consumers}

    def running(self, model: str = "simulated") -> int:
        """Entries claimed and not finished, as Redis has them."""
        try:
            return self.broker.sync.xpending(f"smartbatch:{{{model}}}:requests", "workers")["pending"]
        except redis.ResponseError:
            return 0  # no group yet

    def counter(self, name: str, labels: str = "") -> float:
        """The sum of a metric over its samples, or over those with `labels` as in `outcome="ok"`."""
        samples = [line for line in self.metrics().splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rpartition(" ")[2]) for line in samples if labels in line)

    def metrics(self) -> str:
        """The text of /metrics of the gateway and of each running worker."""
        return "".join(self.client.get(f"{url}/metrics").text for url in (self.url, *self.worker_urls()))

    def worker_urls(self) -> list[str]:
        """The metrics URLs of the running workers."""
        return [f"http://127.0.0.1:{report['metrics_port']}" for report in self._live_workers()]

    def _live_workers(self) -> list[dict]:
        """The reports of the running worker processes."""
        alive = {process.pid for process in self.processes if process.popen.poll() is None}
        models = self.client.get(f"{self.url}/stats").json()["models"].values()
        reports = [report for model in models for report in model["workers"].values()]
        return [report for report in reports if report.get("pid") in alive]

    def waiting(self, model: str = "simulated") -> int:
        """Entries on the stream, as Redis has them."""
        return self.broker.sync.xlen(f"smartbatch:{{{model}}}:requests")

    def until_clean(self, workers: int, model: str = "simulated", timeout_s: float = 20.0) -> None:
        """Wait until idle means empty: no entry, nothing pending, no key that won't expire, no dead consumer."""
        try:
            eventually(lambda: not self.leftovers(workers, model), timeout_s, 0.1)
        except AssertionError:
            assert self.leftovers(workers, model) == []  # says which
            raise

    def leftovers(self, workers: int, model: str = "simulated") -> list[str]:
        """What is left over on the broker of an idle system with this many workers, in all partitions of the model."""
        clients = self.broker.clients() if isinstance(self.broker, Servers) else [self.broker.sync]
        keys = [(client, key.decode()) for client in clients for key in client.keys(f"smartbatch:{{{model}*}}:*")]
        kept = ("requests", "wakeup", "leases", "served", "gateways", "worker:", "gateway:", "dead")
        found = [key for _, key in keys if not key.partition("}:")[2].startswith(kept)]
        consumers = leases = 0
        for client, key in keys:
            if key.endswith("}:requests"):
                found += [f"{n} entries in {key}" for n in (client.xlen(key),) if n]
                for group in client.xinfo_groups(key):
                    found += [f"{group['pending']} pending in {key}"] * (group["pending"] > 0)
                    consumers += group["consumers"]
            elif key.endswith("}:leases"):
                leases += client.zcard(key)
        found += [f"{consumers} consumers"] * (consumers > workers)
        return found + [f"{leases} leases"] * (leases != workers)

    def close(self) -> None:
        self.client.close()
        for process in self.processes:
            process.kill()

    def start(self, name: str, settings: Mapping[str, object], command: Sequence[str] = ()) -> Process:
        """Start `smartbatch NAME`, or another command in its place."""
        environ = {**self.environ, **{k: str(v) for k, v in settings.items()}}
        command = command or [*COMMAND, name]
        process = Process(command, environ, self.folder / f"{name}-{len(self.processes)}.log")
        self.processes.append(process)
        return process

    def _responds(self) -> bool:
        try:
            return self.client.get(f"{self.url}/healthz").status_code == 200
        except httpx.TransportError:
            return False
