"""The processes that are measured: `smartbatch up` with all its children, or the naive server."""

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

ROOT = Path(__file__).parents[2]
START_S = 120.0  # torch takes seconds to load, many workers on few cores take more
STOP_S = 60.0
# What a shell of the person who measures may hold; it would change what is measured.
FOREIGN = ("REDIS_URL", "REDIS_PASSWORD_FILE", "API_KEYS", "API_KEYS_FILE", "MODEL_NAME", "MODEL_WEIGHTS")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # http_proxy isn't for loopback


class System:
    """Processes behind one URL; a context manager that starts them, waits until they are ready, and ends them."""

    def __init__(self, command: list[str], port: int, workers: int = 0, **settings: object) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self._workers = workers  # that must be ready; 0: whatever answers is
        self._log = tempfile.NamedTemporaryFile("w+", prefix="bench-", suffix=".log")  # noqa: SIM115 (closed in __exit__)
        environ = {
            name: value for name, value in os.environ.items() if name not in FOREIGN and not name.startswith("OTEL_")
        }
        self._popen = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**environ, **{name: str(value) for name, value in settings.items()}},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def __enter__(self) -> System:
        try:
            self._until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGINT)
            try:
                self._popen.wait(STOP_S)
            except subprocess.TimeoutExpired:
                for process in (*psutil.Process(self._popen.pid).children(recursive=True), self._popen):
                    process.kill()
                self._popen.wait()
        self._log.close()

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Every process of it by its role."""
        root = psutil.Process(self._popen.pid)
        found: dict[str, list[psutil.Process]] = {}
        for process in (root, *root.children(recursive=True)):
            found.setdefault("root" if process == root else _role(process), []).append(process)
        return found

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds by role until now, user and system."""
        return {role: sum(map(_cpu_s, processes)) for role, processes in self.processes().items()}

    def resident_mb(self) -> dict[str, float]:
        return {
            role: round(sum(process.memory_info().rss for process in processes) / 1e6, 1)
            for role, processes in self.processes().items()
        }

    def until_compiled(self, timeout_s: float = 900.0) -> None:
        """Wait until no worker has a network compiled beside serving, which takes it minutes, once."""
        deadline = time.monotonic() + timeout_s
        root = psutil.Process(self._popen.pid)
        while any("compile_process" in " ".join(child.cmdline()) for child in root.children(recursive=True)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"compiling took more than {timeout_s:g} s")
            time.sleep(1)

    def broker_port(self) -> int:
        line = self.processes()["broker"][0].cmdline()
        if "--port" in line:
            return int(line[line.index("--port") + 1])
        return int(" ".join(line).rpartition(":")[2].split()[0])  # a server's title: `valkey-server 127.0.0.1:6379`

    def get(self, path: str) -> str:
        with _DIRECT.open(f"{self.url}{path}", timeout=10) as response:
            return response.read().decode()

    def _until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._popen.poll() is not None:
                raise RuntimeError(f"a server ended by itself:\n{self._said()}")
            try:
                ready = json.loads(self.get("/readyz"))["ready_workers"]
                if sum(ready.values()) >= self._workers:
                    return
            except OSError:  # not listening yet, or 503: not ready
                pass
            time.sleep(0.05)
        raise RuntimeError(f"{self.url} was not ready within {START_S:g} s:\n{self._said()}")

    def _said(self) -> str:
        return Path(self._log.name).read_text()[-2000:]


def smartbatch(model: str, workers: int = 1, **settings: object) -> System:
    """`smartbatch up`; it is ready once its every worker is."""
    port = free_port()
    command = ["-m", "smartbatch.deploy.cli", "up", "--port", str(port), "--workers", str(workers), "--model", model]
    return System(command, port, workers, **{"MAX_BATCH_SIZE": 32, "LOG_LEVEL": "error", **settings})


def naive(model: str) -> System:
    """The yardstick: loadtest/bench/naive.py, one process."""
    port = free_port()
    return System(["-m", "loadtest.bench.naive", str(port), model], port)


def floor(model: str) -> System:
    """What the design costs at the least: loadtest/bench/floor.py, a gateway, a worker and a broker."""
    port = free_port()
    return System(["-m", "loadtest.bench.floor", str(port), model], port)


def _role(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    if "valkey-server" in line or "redis-server" in line:
        return "broker"
    return "worker" if line.endswith(" worker") else "gateway"  # a gateway may have processes of its own


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
