"""What the design costs before anything is built on it: the same broker, scripts, stream, replies and model, and
between them as little as does the job.

    python -m loadtest.bench.floor PORT simulated:base_ms=4,row_ms=0.2

A gateway, a worker and an embedded broker, for one benchmark's requests: each read is taken for one whole request, and
there are no limits, no deadlines, no redelivery, no metrics and no errors. What SmartBatch takes more than this is the
price of those; what this takes more than the naive server is the price of a durable queue between two processes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, cast

import hiredis
import msgspec
import redis
import uvloop
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from smartbatch.deploy import embedded_broker
from smartbatch.deploy.ports import free_port
from smartbatch.shared.broker.connection.script import ADMIT, CLAIM, FINISH_PLAIN, Script
from smartbatch.shared.broker.queue.claims import parse_entry
from smartbatch.shared.keys import GROUP, Keys
from smartbatch.shared.wire import (
    BatchInfo,
    Payload,
    Raw,
    Reply,
    Tensor,
    pack_payload,
    pack_reply,
    unpack_payload,
    unpack_reply,
)
from smartbatch.worker import models
from smartbatch.worker.core.batch import ClaimedEntry
from smartbatch.worker.core.model import Model

KEYS = Keys("floor")
GATEWAY = "gateway"
MAX_ROWS = 32
MAX_BYTES = 2**26
MAX_CALL_REQUESTS = 256
TIMEOUT_MS = 30_000
TTL_MS = 60_000
POP = 256
WAIT_S = 1.0
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


def packed(*command: Any) -> bytes:
    return hiredis.pack_command(command)


def call(script: Script, keys: list[str], args: list[Any]) -> bytes:
    return packed("EVALSHA", script.sha, len(keys), *keys, *args)


# --- the gateway


class Link(asyncio.Protocol):
    """One connection to the broker."""

    def __init__(self, answered: Callable[[Any], None]) -> None:
        self._answered = answered
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast(asyncio.Transport, transport).write

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            self._answered(answer)


class Gateway:
    """What came while a call was under way leaves in the next one."""

    def __init__(self) -> None:
        self.admitting = Link(self._admitted)
        self.inbox = Link(self._popped)
        self._fronts: dict[bytes, asyncio.Transport] = {}
        self._waiting: list[Any] = []
        self._under_way = False
        self._number = 0
        self._encode = msgspec.json.Encoder().encode
        self._pop = packed("BLMPOP", WAIT_S, 1, KEYS.inbox(GATEWAY), "LEFT", "COUNT", POP)

    def ask(self, body: bytes, front: asyncio.Transport) -> None:
        self._number += 1
        request_id = b"%x" % self._number
        self._fronts[request_id] = front
        payload = pack_payload(Payload("raw", Raw(body, "")))
        self._waiting.append((request_id, payload))
        if not self._under_way:
            self._admit()

    def pop(self) -> None:
        self.inbox.write(self._pop)

    def _admit(self) -> None:
        self._under_way = True
        flush, self._waiting = self._waiting[:MAX_CALL_REQUESTS], self._waiting[MAX_CALL_REQUESTS:]
        args = [GROUP, 10_000, MAX_BYTES, 0, 0, 0, GATEWAY, len(flush)]
        args += (sum(len(payload) for _, payload in flush), len(flush), TIMEOUT_MS, *(id_ for id_, _ in flush))
        for _, payload in flush:
            args += (f"{len(payload)}|1", f"{TIMEOUT_MS}|raw|", payload)
        self.admitting.write(call(ADMIT, [KEYS.requests, KEYS.inflight, KEYS.fill_lock, KEYS.wakeup], args))

    def _admitted(self, answer: Any) -> None:
        if isinstance(answer, Exception):
            raise answer
        self._under_way = False
        if self._waiting:
            self._admit()

    def _popped(self, answer: Any) -> None:
        if isinstance(answer, int):  # of UNLINK
            return
        done = []
        for notice in answer[1] if answer else ():
            request_id, _, reply = notice.split(b"|", 2)
            done.append(KEYS.reply(request_id.decode()))
            result = unpack_reply(reply).result
            assert result is not None and result.outputs is not None
            outputs = {name: _as_json(tensor) for name, tensor in result.outputs.items()}
            content = self._encode({"outputs": outputs})
            front = self._fronts.pop(request_id)
            if not front.is_closing():
                front.write(RESPONSE % (len(content), content))
        self.inbox.write((packed("UNLINK", *done) if done else b"") + self._pop)


def _as_json(tensor: Tensor) -> dict[str, Any]:
    numbers = memoryview(tensor.data).cast("B").cast("f", tensor.shape)
    return {"dtype": tensor.dtype, "shape": tensor.shape, "data": numbers.tolist()}


class Front(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        head, _, body = data.partition(b"\r\n\r\n")
        if head.startswith(b"POST"):
            self._gateway.ask(body, self._transport)
        else:  # the benchmark asks whether this is ready
            content = b'{"ready": true, "ready_workers": {"floor": 1}}'
            self._transport.write(RESPONSE % (len(content), content))


async def serve(port: int, broker_port: int) -> None:
    loop = asyncio.get_running_loop()
    gateway = Gateway()
    for link in (gateway.admitting, gateway.inbox):
        await loop.create_connection(lambda link=link: link, "127.0.0.1", broker_port)
    gateway.pop()
    server = await loop.create_server(lambda: Front(gateway), "127.0.0.1", port)
    await server.serve_forever()


# --- the worker


class Worker:
    """One thread: claim, run, finish; the last of one batch leaves with the first of the next."""

    def __init__(self, broker_port: int, model: Model) -> None:
        self._socket = socket.create_connection(("127.0.0.1", broker_port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        self._model = model
        keys = [KEYS.requests, KEYS.inflight, KEYS.fill_lock, KEYS.wakeup, KEYS.leases]
        args = [GROUP, "me", "idle", 0, MAX_ROWS, MAX_BYTES, 0, TTL_MS, 0, "", ""]
        self._claim = packed("BLPOP", KEYS.wakeup, WAIT_S) + call(CLAIM, keys, args)
        self._batches = 0

    def run(self) -> None:
        self._socket.sendall(self._claim)
        sent = 2
        while True:
            kind, now_ms, _, _, _, _, entries = self._answers(sent)[-1]
            finish = self._batch([parse_entry(entry) for entry in entries], now_ms) if kind == b"batch" else b""
            self._socket.sendall(finish + self._claim)
            sent = 3 if finish else 2

    def _batch(self, entries: list[Any], now_ms: int) -> bytes:
        model, claimed_at = self._model, time.monotonic()
        self._batches += 1
        claimed_entries = [ClaimedEntry(entry, now_ms, claimed_at) for entry in entries]
        for claimed in claimed_entries:
            claimed.rows = model.decode(unpack_payload(claimed.entry.payload))
        started_at = time.monotonic()
        rows = [row for claimed in claimed_entries for row in claimed.rows]
        outputs = iter(model.separate(model.forward(model.collate(rows)), len(rows)))
        forward_ms = (time.monotonic() - started_at) * 1000
        replies: list[bytes] = []
        for place, claimed in enumerate(claimed_entries, 1):
            result = model.encode([next(outputs) for _ in claimed.rows], {})
            ride = BatchInfo(f"me-{self._batches}", len(rows), len(claimed_entries), "full", "me", 1, place)
            queue_ms = (claimed.claimed_at - claimed.admitted_at) * 1000
            ms = {"queue": queue_ms, "decode": 0.0, "batch_wait": 0.0, "forward": forward_ms}
            replies.append(pack_reply(Reply(result, None, ride, ms)))
        keys = [KEYS.requests, KEYS.inflight, KEYS.inbox(GATEWAY), *(KEYS.reply(entry.id) for entry in entries)]
        args: list[Any] = [
            GROUP,
            TTL_MS,
            1,
            len(claimed_entries),
            sum(entry.bytes for entry in entries),
            len(rows),
            len(claimed_entries),
        ]
        args += (entry.id for entry in entries)
        args += (entry.entry_id for entry in entries)
        args += (f"{entry.entry_id}|{entry.bytes}|1" for entry in entries)
        for entry, reply in zip(entries, replies, strict=True):
            args.append(b"%b|%d|%b" % (entry.id.encode(), len(reply), reply))
        return call(FINISH_PLAIN, keys, [*args, *replies])

    def _answers(self, count: int) -> list[Any]:
        answers: list[Any] = []
        while len(answers) < count:
            while (answer := self._reader.gets()) is False:
                data = self._socket.recv(2**18)
                if not data:
                    sys.exit(0)  # the broker ended
                self._reader.feed(data)
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return answers


def main() -> None:
    port, model, *role = sys.argv[1:]
    if role:
        Worker(int(port), models.resolve(model)).run()
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job doesn't have
    broker_port = free_port()
    with tempfile.TemporaryDirectory(prefix="floor-") as folder:
        broker = subprocess.Popen(embedded_broker.arguments(broker_port, folder), stdout=subprocess.DEVNULL)
        worker = None
        try:
            _load_scripts(broker_port)
            worker = subprocess.Popen([sys.executable, "-m", __spec__.name, str(broker_port), model, "worker"])
            uvloop.run(serve(int(port), broker_port))
        except KeyboardInterrupt:
            pass
        finally:
            for process in filter(None, (worker, broker)):
                process.kill()
                process.wait()
    os._exit(0)


def _load_scripts(broker_port: int) -> None:
    client = redis.Redis(port=broker_port, retry=Retry(ConstantBackoff(0.05), 200))  # until it listens
    for script in (ADMIT, CLAIM, FINISH_PLAIN):
        client.script_load(script.source)
    client.close()


if __name__ == "__main__":
    main()
