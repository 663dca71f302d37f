"""`smartbatch up` as a process of a test, with what it started."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil

from smartbatch.deploy.ports import free_port
from smartbatch.shared.settings import describe
from tests.brokers import eventually

ROOT = Path(__file__).parents[2]
SETTINGS = {name for name, *_ in describe()}


class Up:
    """One launcher and the processes that it started."""

    def __init__(self, log: Path, *options: str, **environ: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self.client = httpx.Client(base_url=self.url, timeout=30)
        self.seen: dict[int, psutil.Process] = {}
        with log.open("wb") as out:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "smartbatch.deploy.cli", "up", "--port", str(self.port), *options],
                env={**{k: v for k, v in os.environ.items() if k not in SETTINGS}, **environ, "COLUMNS": "200"},
                cwd=ROOT,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
            )

    @property
    def lines(self) -> list[str]:
        return self._log.read_text().splitlines()

    def ready(self) -> Up:
        def has_printed() -> bool:
            assert self.popen.poll() is None, self.lines
            return any(line.startswith("ready ") for line in self.lines)

        eventually(has_printed, 30)
        self.children()
        return self

    def children(self, kind: str = "") -> list[psutil.Process]:
        """Return the processes below the launcher; `kind` is a word of their command line."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.popen.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.seen[process.pid] = process
                    if not kind or any(kind in Path(word).name for word in process.cmdline()):
                        found.append(process)
        return found

    @property
    def left(self) -> list[psutil.Process]:
        """What was ever seen below the launcher and still runs."""
        return [p for p in self.seen.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    @property
    def broker_port(self) -> int:
        matches = (re.search(r"embedded, at redis://127\.0\.0\.1:(\d+)/0", line) for line in self.lines)
        return next(int(match[1]) for match in matches if match)

    def predict(self, text: str = "hello") -> httpx.Response:
        return self.client.post("/predict", json={"data": [text]})

    def serves(self) -> bool:
        try:
            return self.predict().status_code == 200
        except httpx.TransportError:
            return False

    def running(self) -> bool:
        models = self.client.get("/stats").json()["models"]
        return any(model["queue"]["running"] for model in models.values())

    def interrupt(self) -> None:
        self.popen.send_signal(signal.SIGINT)

    def close(self) -> None:
        self.client.close()
        self.children()
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        for process in self.left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
