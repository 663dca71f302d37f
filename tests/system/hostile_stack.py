"""A stack that serves the hostile model, with workers that are restarted whenever they end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp

from tests.brokers import eventually
from tests.system.stack import Process, Stack

MODEL = "hostile"
KEYS = f"smartbatch:{{{MODEL}}}:"
SETTINGS = {
    "MODEL_PATH": "tests.system.hostile_model:Hostile",
    "MODEL_NAME": MODEL,
    "TORCH_THREADS": 1,
    "REQUEST_TIMEOUT": 120,
    "MAX_WAIT_TIME": 0.5,
    "DECODE_THREADS": 2,
}


class RowResponse:
    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self.status = status
        self.body = body

    @property
    def value(self) -> Any:
        return self.body["values"][0]

    @property
    def code(self) -> str:
        return self.body.get("code", "ok")


def hostile(stack: Callable[..., Stack], **settings: object) -> Stack:
    """A gateway, and what workers will need; they are started by the test."""
    system = stack(**{"MAX_BATCH_SIZE": 64, **SETTINGS, **settings})
    system.gateway()
    return system


async def send_rows(system: Stack, rows: Sequence[str], timeout_s: float = 120) -> list[RowResponse]:
    """Send every row as a request of its own, all at once."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(timeout_s)) as client:

        async def one(row: str) -> RowResponse:
            async with client.post(f"{system.url}/predict", data=row.encode()) as response:
                return RowResponse(response.status, await response.json())

        return list(await asyncio.gather(*(one(row) for row in rows)))


class Supervised:
    """Workers that are restarted as soon as they end. `exits` has the exit code of each that did."""

    def __init__(self, system: Stack, workers: int, **settings: object) -> None:
        self._system = system
        self._settings = settings
        self._running: list[Process] = [system.worker(**settings) for _ in range(workers)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.exits: list[int] = []
        self.logs = [process.log for process in self._running]

    def __enter__(self) -> Supervised:
        eventually(lambda: self._system.ready_workers() == len(self._running), 60, 0.05)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def count_in_logs(self, text: str) -> int:
        """Return the number of log lines, of all workers, that contain `text`."""
        return sum(text in line for log in self.logs for line in log.read_text().splitlines())

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for number, process in enumerate(self._running):
                code = process.popen.poll()
                if code is not None and not self._stop.is_set():
                    self.exits.append(code)
                    self._running[number] = self._system.worker(**self._settings)
                    self.logs.append(self._running[number].log)


def is_empty(system: Stack) -> bool:
    """No entries, nothing pending, nothing open, no bodies or replies."""
    redis = system.broker.sync
    left = [key for kind in ("inflight", "body:*", "reply:*") for key in redis.keys(KEYS.replace("{", "[{]") + kind)]
    return redis.xlen(f"{KEYS}requests") == 0 and system.running(MODEL) == 0 and left == []


def dead_letters(system: Stack) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in system.broker.sync.xrange(f"{KEYS}dead")]
