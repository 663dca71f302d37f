"""One client: it sends, waits for the answer, checks it, and sends again."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import gevent
from locust import FastHttpUser, task

from loadtest.swarm.references import Reference, Taken
from loadtest.traffic import answers

MAX_PAUSE_S = 30.0  # of a Retry-After that is kept
NETWORK_TIMEOUT_S = 120.0


class Client(FastHttpUser):
    """`prepare` is called once per process, before the first of them starts."""

    network_timeout = NETWORK_TIMEOUT_S
    connection_timeout = 10.0
    references: ClassVar[dict[str, list[Reference]]] = {}
    path: ClassVar[str] = "/predict"
    sent_headers: ClassVar[dict[str, str]] = {}
    think_time_s: ClassVar[float] = 0.0
    checked: ClassVar[int] = 0

    @classmethod
    def prepare(cls, taken: Taken, path: str, headers: dict[str, str], think_time_s: float) -> None:
        """Give each task its bodies, and the weight that was asked for; a task without bodies is not run."""
        cls.references = {kind: references for kind, (_, references) in taken.items()}
        cls.path, cls.sent_headers, cls.think_time_s, cls.checked = path, headers, think_time_s, 0
        tasks = {"photo": cls.photo, "json": cls.json_tensor, "npy": cls.npy, "msgpack": cls.msgpack, "own": cls.own}
        cls.tasks = [tasks[kind] for kind, (weight, _) in taken.items() for _ in range(weight)]

    def wait_time(self) -> float:
        return self.think_time_s

    @task
    def photo(self) -> None:
        self._send("photo")

    @task
    def json_tensor(self) -> None:
        self._send("json")

    @task
    def npy(self) -> None:
        self._send("npy")

    @task
    def msgpack(self) -> None:
        self._send("msgpack")

    @task
    def own(self) -> None:
        self._send("own")

    def _send(self, kind: str) -> None:
        reference = random.choice(self.references[kind])
        headers = {"content-type": reference.body.content_type, **self.sent_headers}
        pause_s = 0.0
        with self.client.post(
            self.path,
            data=reference.body.content,  # type: ignore[arg-type] # bytes are what it sends in the end
            headers=headers,
            name=reference.body.name,
            catch_response=True,
        ) as response:
            retry_after = str((response.headers or {}).get("retry-after", ""))
            if response.status_code == 503 and retry_after:
                response.request_meta["name"] = f"{reference.body.name}, refused"
                response.success()
                pause_s = _pause_s(retry_after)
            elif response.status_code != 200:
                response.failure(f"{response.status_code}: {response.text or getattr(response, 'error', '')}"[:200])
            elif fault := _fault(reference, response.content):
                response.failure(fault)
            else:
                Client.checked += 1
                response.success()
        if pause_s:
            gevent.sleep(pause_s)


def _fault(reference: Reference, content: Any) -> str:
    """Say what is wrong with the answer; empty if nothing is."""
    try:
        got = answers.result(content or b"")
    except answers.Unreadable as error:
        return f"no answer: {error}"
    apart = answers.difference(reference.result, got)
    return "" if apart <= 1 else f"wrong answer: {apart:.3g} times as far from this body's own as is allowed"


def _pause_s(retry_after: str) -> float:
    return min(MAX_PAUSE_S, float(retry_after)) if retry_after.isdigit() else 1.0
