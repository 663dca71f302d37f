"""Start a server as a process, wait until it is ready, measure its processes, stop it. Every benchmark here uses it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

from smartbatch.deploy.ports import free_port

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 120.0  # torch takes seconds to load, more with many workers on few cores
STOP_TIMEOUT_S = 60.0
# Variables of the caller that a measured server must not get.
IGNORED_VARIABLES = ("REDIS_URL", "REDIS_PASSWORD_FILE", "API_KEYS", "API_KEYS_FILE", "MODEL_NAME", "MODEL_WEIGHTS")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # ignores http_proxy


class System:
    """All processes of one server. A context manager: entering waits until the server is ready, leaving stops it."""

    ready_path = "/readyz"

    def __init__(self, command: list[str], port: int, workers: int = 0, **settings: object) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self._workers = workers  # how many must be ready
        self._log = tempfile.NamedTemporaryFile("w+", prefix="loadtest-", suffix=".log")  # noqa: SIM115 (closed in __exit__)
        self._popen = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def __enter__(self) -> System:
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGINT)
            try:
                self._popen.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                for process in (*psutil.Process(self._popen.pid).children(recursive=True), self._popen):
                    process.kill()
                self._popen.wait()
        self._log.close()

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Return the processes by role: root, gateway, worker, broker."""
        root = psutil.Process(self._popen.pid)
        roles: dict[str, list[psutil.Process]] = {}
        for process in (root, *root.children(recursive=True)):
            roles.setdefault("root" if process == root else _role(process), []).append(process)
        return roles

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds (user and system) used so far, by role."""
        return {role: sum(map(_cpu_s, processes)) for role, processes in self.processes().items()}

    def resident_mb(self) -> dict[str, float]:
        return {
            role: round(sum(process.memory_info().rss for process in processes) / 1e6, 1)
            for role, processes in self.processes().items()
        }

    def wait_until_compiled(self, timeout_s: float = 900.0) -> None:
        """Wait until no worker compiles a network any more. Compiling takes minutes the first time."""
        deadline = time.monotonic() + timeout_s
        root = psutil.Process(self._popen.pid)
        while any("compile_process" in _command(child) for child in root.children(recursive=True)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"compiling took more than {timeout_s:g} s")
            time.sleep(1)

    def broker_port(self) -> int:
        line = self.processes()["broker"][0].cmdline()
        if "--port" in line:
            return int(line[line.index("--port") + 1])
        return int(" ".join(line).rpartition(":")[2].split()[0])  # process title: `valkey-server 127.0.0.1:6379`

    def get(self, path: str) -> str:
        return http_get(f"{self.url}{path}")

    def batches(self) -> tuple[float, float, float]:
        """Return rows and batches run by the live workers, and the requests waiting now, from /stats."""
        models = json.loads(self.get("/stats"))["models"].values()
        workers = [worker for model in models for worker in model["workers"].values()]
        rows, batches = (sum(worker[name] for worker in workers) for name in ("rows", "batches"))
        return rows, batches, sum(model["queue"]["waiting"] for model in models)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._popen.poll() is not None:
                raise RuntimeError(f"the server ended while starting:\n{self._output()}")
            try:
                text = self.get(self.ready_path)
                if not self._workers or sum(json.loads(text)["ready_workers"].values()) >= self._workers:
                    return
            except OSError:  # not listening yet, or 503: not ready
                pass
            time.sleep(0.05)
        raise RuntimeError(f"{self.url} was not ready within {START_TIMEOUT_S:g} s:\n{self._output()}")

    def _output(self) -> str:
        return Path(self._log.name).read_text()[-2000:]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has just ended
        return ""


def smartbatch(model: str, workers: int = 1, **settings: object) -> System:
    """Start `smartbatch up`. It is ready once every worker is."""
    port = free_port()
    command = ["-m", "smartbatch.deploy.cli", "up", "--port", str(port), "--workers", str(workers), "--model", model]
    return System(command, port, workers, **{"MAX_BATCH_SIZE": 32, "LOG_LEVEL": "error", **settings})


def reference_server(module: str, *arguments: str, **settings: object) -> System:
    """Start a server of loadtest/servers/, by the name of its module."""
    port = free_port()
    return System(["-m", f"loadtest.servers.{module}", str(port), *arguments], port, 0, **settings)


def environment(**settings: object) -> dict[str, str]:
    """Return this process's environment plus `settings`, without variables that would change the measurement."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in IGNORED_VARIABLES and not name.startswith("OTEL_")
    }
    return {**kept, **{name: str(value) for name, value in settings.items()}}


def http_get(url: str) -> str:
    with _DIRECT.open(url, timeout=10) as response:
        return response.read().decode()


def metric_total(text: str, name: str) -> float:
    """Sum the samples of a metric in Prometheus text."""
    lines = text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


class CpuTimer:
    """Measures, from its creation on, the CPU time of a server and of all processes unrelated to the benchmark."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._start = self._now()

    def read(self, generator_cpu_s: float) -> dict[str, float]:
        busy, server, own = (end - start for end, start in zip(self._now(), self._start, strict=True))
        others = max(0.0, busy - server - own - generator_cpu_s)
        return {"cpu_s": round(server, 3), "others_cpu_s": round(others, 3)}

    def _now(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        busy = times.user + times.system + getattr(times, "nice", 0.0) + getattr(times, "steal", 0.0)
        return busy, sum(self._system.cpu_s().values()), time.process_time()


def _role(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    if "valkey-server" in line or "redis-server" in line:
        return "broker"
    return "worker" if line.endswith(" worker") else "gateway"  # a gateway may have processes of its own


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
