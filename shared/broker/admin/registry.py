"""Which models there are, and what workers and gateways report of themselves.

Everything here expires or is overwritten: a report speaks for the last seconds. Reading it needs nothing but
Redis, so gateways, the command line and a person with redis-cli see the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from smartbatch.shared import counts, model_info
from smartbatch.shared.broker.connection.client import Client, broker_errors
from smartbatch.shared.broker.connection.script import Argument
from smartbatch.shared.broker.queue.claims import read_entry
from smartbatch.shared.errors import UnknownModel
from smartbatch.shared.keys import GROUP, MODELS, Keys, check_model_name
from smartbatch.shared.model_info import ModelInfo

GATEWAY_REPORT_TTL_MS = 10_000
_GROUPS = 2  # the answer of a snapshot that is an error while there is no stream


class Snapshot(msgspec.Struct):
    """One model at one moment. `workers` are those with a lease. `counts` in a report is bytes, the rest text."""

    model: str
    now_ms: int = 0
    waiting: int = 0
    running: int = 0
    open_requests: int = 0
    open_bytes: int = 0
    oldest_wait_s: float = 0.0
    dead: int = 0
    filling: str = ""
    workers: dict[str, dict[str, Any]] = {}
    gateways: dict[str, dict[str, Any]] = {}

    @property
    def ready_workers(self) -> list[str]:
        return [worker_id for worker_id, report in self.workers.items() if report.get("state") == "ready"]


async def announce(client: Client, info: ModelInfo) -> None:
    with broker_errors():
        await client.hset(MODELS, info.name, model_info.encode(info))


async def models(client: Client) -> dict[str, ModelInfo]:
    """Return every model that a worker has announced. One that can't be read, or that no key could hold, is left
    out."""
    with broker_errors():
        announced = await client.hgetall(MODELS)
    found = {}
    for name, text in announced.items():
        try:
            found[check_model_name(name.decode())] = model_info.decode(text)
        except (ValueError, UnknownModel):  # msgspec's errors and UnicodeDecodeError are ValueErrors
            continue
    return found


async def report_gateway(client: Client, keys: Keys, gateway_id: str, report: Mapping[str, Argument]) -> None:
    key = keys.gateway(gateway_id)
    with broker_errors():
        pipeline = client.pipeline(transaction=False)
        pipeline.hset(key, mapping=dict(report))
        pipeline.pexpire(key, GATEWAY_REPORT_TTL_MS)
        pipeline.sadd(keys.gateways, gateway_id)
        pipeline.pexpire(keys.gateways, GATEWAY_REPORT_TTL_MS)
        await pipeline.execute()


async def forget_gateway(client: Client, keys: Keys, gateway_id: str) -> None:
    with broker_errors():
        pipeline = client.pipeline(transaction=False)
        pipeline.delete(keys.gateway(gateway_id))
        pipeline.srem(keys.gateways, gateway_id)
        await pipeline.execute()


async def snapshot(client: Client, model: str) -> Snapshot:
    """Read one model's state: three round trips, whatever the load."""
    keys = Keys(model)
    with broker_errors():
        pipeline = client.pipeline(transaction=False)
        pipeline.time()
        pipeline.xlen(keys.requests)
        pipeline.xinfo_groups(keys.requests)
        pipeline.hlen(keys.inflight)
        pipeline.hmget(keys.inflight, ["#bytes", "#extra_rows", "#about"])
        pipeline.xlen(keys.dead)
        pipeline.get(keys.fill_lock)
        pipeline.zrange(keys.leases, 0, -1, withscores=True)
        pipeline.smembers(keys.gateways)
        answers = await pipeline.execute(raise_on_error=False)
        for at, answer in enumerate(answers):
            if isinstance(answer, Exception) and at != _GROUPS:
                raise answer
        (seconds, micros), length, groups, fields, sums, dead, fill_lock, leases, gateway_ids = answers
        group = next((g for g in groups if g["name"] == GROUP.encode()), None) if isinstance(groups, list) else None
        running = group["pending"] if group else 0
        last_id = group["last-delivered-id"].decode() if group else "0-0"
        now_ms = seconds * 1000 + micros // 1000
        live = [worker_id for worker_id, lease_end in leases if lease_end > now_ms]
        workers, gateways, head = await _reports(client, keys, live, gateway_ids, last_id)
    return Snapshot(
        model,
        now_ms,
        max(0, length - running),
        running,
        fields - sum(value is not None for value in sums),
        int(sums[0] or 0),
        read_entry(head[0]).age_s(now_ms) if head else 0.0,
        dead,
        fill_lock.decode() if fill_lock else "",
        workers,
        gateways,
    )


async def _reports(client: Client, keys: Keys, worker_ids, gateway_ids, last_id: str):
    pipeline = client.pipeline(transaction=False)
    worker_names = sorted(name.decode(errors="replace") for name in worker_ids)
    gateway_names = sorted(name.decode(errors="replace") for name in gateway_ids)
    for name in worker_names:
        pipeline.hgetall(keys.worker(name))
    for name in gateway_names:
        pipeline.hgetall(keys.gateway(name))
    pipeline.xrange(keys.requests, min=f"({last_id}", count=1)
    *answers, head = await pipeline.execute(raise_on_error=False)
    if isinstance(head, Exception):
        raise head
    reports = [_text(answer) if isinstance(answer, dict) else {} for answer in answers]  # else what isn't ours
    workers = {n: r for n, r in zip(worker_names, reports, strict=False) if r}
    gateways = {n: r for n, r in zip(gateway_names, reports[len(worker_names) :], strict=True) if r}
    return workers, gateways, head


def _text(report: dict[bytes, bytes]) -> dict[str, Any]:
    readable = {k.decode(errors="replace"): v for k, v in report.items()}
    return {k: v if k == counts.FIELD else v.decode(errors="replace") for k, v in readable.items()}


def number(text: Any) -> float:
    """A number of a report, or 0: whatever stands there, it must end nobody who reads it."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return 0.0
    return value if 0 <= value < math.inf else 0.0
