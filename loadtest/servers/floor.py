"""What the design costs at the least: the same broker, scripts, stream, replies and model, and little between them.

    python -m loadtest.servers.floor PORT simulated:base_ms=4,row_ms=0.2

A gateway, a worker and an embedded broker for one benchmark's requests: each read is taken for one whole request, and
there are no limits, deadlines, redelivery, metrics or errors. What SmartBatch takes more than this is their price; what
this takes more than the naive server is the price of a durable queue between two processes.
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
MAX_POPPED = 256
WAIT_S = 1.0
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


def command(*words: Any) -> bytes:
    return hiredis.pack_command(words)


def script_call(script: Script, keys: list[str], args: list[Any]) -> bytes:
    return command("EVALSHA", script.sha, len(keys), *keys, *args)


# --- the gateway


class BrokerConnection(asyncio.Protocol):
    def __init__(self, on_reply: Callable[[Any], None]) -> None:
        self._on_reply = on_reply
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast(asyncio.Transport, transport).write

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._on_reply(reply)


class Gateway:
    """Requests that arrive while a call is in flight are sent with the next one."""

    def __init__(self) -> None:
        self.submitter = BrokerConnection(self._on_admitted)
        self.inbox = BrokerConnection(self._on_popped)
        self._clients: dict[bytes, asyncio.Transport] = {}
        self._waiting: list[tuple[bytes, bytes]] = []
        self._in_flight = False
        self._number = 0
        self._encode = msgspec.json.Encoder().encode
        self._pop = command("BLMPOP", WAIT_S, 1, KEYS.inbox(GATEWAY), "LEFT", "COUNT", MAX_POPPED)

    def submit(self, body: bytes, client: asyncio.Transport) -> None:
        self._number += 1
        request_id = b"%x" % self._number
        self._clients[request_id] = client
        self._waiting.append((request_id, pack_payload(Payload("raw", Raw(body, "")))))
        if not self._in_flight:
            self._admit()

    def pop(self) -> None:
        self.inbox.write(self._pop)

    def _admit(self) -> None:
        self._in_flight = True
        flush, self._waiting = self._waiting[:MAX_CALL_REQUESTS], self._waiting[MAX_CALL_REQUESTS:]
        args = [GROUP, 10_000, MAX_BYTES, 0, 0, 0, GATEWAY, len(flush)]
        args += (sum(len(payload) for _, payload in flush), len(flush), TIMEOUT_MS, *(id_ for id_, _ in flush))
        for _, payload in flush:
            args += (f"{len(payload)}|1", f"{TIMEOUT_MS}|raw|", payload)
        self.submitter.write(script_call(ADMIT, [KEYS.requests, KEYS.inflight, KEYS.fill_lock, KEYS.wakeup], args))

    def _on_admitted(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            raise reply
        self._in_flight = False
        if self._waiting:
            self._admit()

    def _on_popped(self, reply: Any) -> None:
        if isinstance(reply, int):  # to UNLINK
            return
        done = []
        for notice in reply[1] if reply else ():
            request_id, _, packed = notice.split(b"|", 2)
            done.append(KEYS.reply(request_id.decode()))
            result = unpack_reply(packed).result
            assert result is not None and result.outputs is not None
            outputs = {name: _as_json(tensor) for name, tensor in result.outputs.items()}
            content = self._encode({"outputs": outputs})
            client = self._clients.pop(request_id)
            if not client.is_closing():
                client.write(RESPONSE % (len(content), content))
        self.inbox.write((command("UNLINK", *done) if done else b"") + self._pop)


def _as_json(tensor: Tensor) -> dict[str, Any]:
    values = memoryview(tensor.data).cast("B").cast("f", tensor.shape)
    return {"dtype": tensor.dtype, "shape": tensor.shape, "data": values.tolist()}


class ClientConnection(asyncio.Protocol):
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        head, _, body = data.partition(b"\r\n\r\n")
        if head.startswith(b"POST"):
            self._gateway.submit(body, self._transport)
        else:  # GET /readyz
            content = b'{"ready": true, "ready_workers": {"floor": 1}}'
            self._transport.write(RESPONSE % (len(content), content))


async def serve(port: int, broker_port: int) -> None:
    loop = asyncio.get_running_loop()
    gateway = Gateway()
    for connection in (gateway.submitter, gateway.inbox):
        await loop.create_connection(lambda connection=connection: connection, "127.0.0.1", broker_port)
    gateway.pop()
    server = await loop.create_server(lambda: ClientConnection(gateway), "127.0.0.1", port)
    await server.serve_forever()


# --- the worker


class Worker:
    """One thread: claim, run, finish. A batch's replies leave together with the next claim."""

    def __init__(self, broker_port: int, model: Model) -> None:
        self._socket = socket.create_connection(("127.0.0.1", broker_port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        self._model = model
        keys = [KEYS.requests, KEYS.inflight, KEYS.fill_lock, KEYS.wakeup, KEYS.leases]
        args = [GROUP, "me", "idle", 0, MAX_ROWS, MAX_BYTES, 0, TTL_MS, 0, "", ""]
        self._claim = command("BLPOP", KEYS.wakeup, WAIT_S) + script_call(CLAIM, keys, args)
        self._batches = 0

    def run(self) -> None:
        finish = b""
        while True:
            self._socket.sendall(finish + self._claim)
            kind, now_ms, _, _, _, _, entries = self._replies(3 if finish else 2)[-1]
            finish = self._batch([parse_entry(entry) for entry in entries], now_ms) if kind == b"batch" else b""

    def _batch(self, entries: list[Any], now_ms: int) -> bytes:
        model, claimed_at = self._model, time.monotonic()
        self._batches += 1
        claimed = [ClaimedEntry(entry, now_ms, claimed_at) for entry in entries]
        for each in claimed:
            each.rows = model.decode(unpack_payload(each.entry.payload))
        started_at = time.monotonic()
        rows = [row for each in claimed for row in each.rows]
        outputs = iter(model.separate(model.forward(model.collate(rows)), len(rows)))
        forward_ms = (time.monotonic() - started_at) * 1000
        replies: list[bytes] = []
        for place, each in enumerate(claimed, 1):
            result = model.encode([next(outputs) for _ in each.rows], {})
            batch = BatchInfo(f"me-{self._batches}", len(rows), len(claimed), "full", "me", 1, place)
            queue_ms = (each.claimed_at - each.admitted_at) * 1000
            ms = {"queue": queue_ms, "decode": 0.0, "batch_wait": 0.0, "forward": forward_ms}
            replies.append(pack_reply(Reply(result, None, batch, ms)))
        count = len(entries)
        keys = [KEYS.requests, KEYS.inflight, KEYS.inbox(GATEWAY), *(KEYS.reply(entry.id) for entry in entries)]
        args: list[Any] = [GROUP, TTL_MS, 1, count, sum(entry.bytes for entry in entries), len(rows), count]
        args += (entry.id for entry in entries)
        args += (entry.entry_id for entry in entries)
        args += (f"{entry.entry_id}|{entry.bytes}|1" for entry in entries)
        args += (
            b"%b|%d|%b" % (entry.id.encode(), len(reply), reply) for entry, reply in zip(entries, replies, strict=True)
        )
        return script_call(FINISH_PLAIN, keys, [*args, *replies])

    def _replies(self, count: int) -> list[Any]:
        replies: list[Any] = []
        while len(replies) < count:
            while (reply := self._reader.gets()) is False:
                data = self._socket.recv(2**18)
                if not data:
                    sys.exit(0)  # the broker ended
                self._reader.feed(data)
            if isinstance(reply, Exception):
                raise reply
            replies.append(reply)
        return replies


def main() -> None:
    port, model, *role = sys.argv[1:]
    if role:
        Worker(int(port), models.resolve(model)).run()
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it otherwise
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
