"""The announced models, and the status reports of workers and gateways.

A report expires after seconds unless it is renewed. Reading needs only Redis, so gateways, the command line and
redis-cli show the same state.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from smartbatch.shared import model_info
from smartbatch.shared.broker.connection.multiplexed import Argument, MultiplexedConnection, to_dict
from smartbatch.shared.broker.queue.claims import parse_entry
from smartbatch.shared.errors import UnknownModel
from smartbatch.shared.keys import GROUP, MODELS, Keys, check_model_id
from smartbatch.shared.model_info import ModelInfo
from smartbatch.shared.telemetry import counts

GATEWAY_REPORT_TTL_MS = 10_000


class Snapshot(msgspec.Struct):
    """The state of one partition of a model, or of all in `parts` together. `workers` are those with a lease. In a
    report, `counts` is bytes and the rest text. Without `reachable` nothing is known of the partition."""

    model: str
    now_ms: int = 0
    waiting: int = 0
    running: int = 0
    open_requests: int = 0
    open_bytes: int = 0
    open_rows: int = 0
    oldest_wait_s: float = 0.0
    dead: int = 0
    filling: str = ""
    workers: dict[str, dict[str, Any]] = {}
    gateways: dict[str, dict[str, Any]] = {}
    partition: int = 0
    reachable: bool = True
    parts: Sequence[Snapshot] = ()

    @staticmethod
    def unreachable(tag: str) -> Snapshot:
        """Return what stands for a partition whose broker is away."""
        keys = Keys(tag)
        return Snapshot(keys.model, partition=keys.partition, reachable=False)

    @staticmethod
    def together(model: str, parts: Sequence[Snapshot]) -> Snapshot:
        """Return the state of a model from those of its partitions, of which there is at least one. A worker that has
        joined several counts once, and so does a gateway."""
        return Snapshot(
            model,
            max(part.now_ms for part in parts),
            sum(part.waiting for part in parts),
            sum(part.running for part in parts),
            sum(part.open_requests for part in parts),
            sum(part.open_bytes for part in parts),
            sum(part.open_rows for part in parts),
            max(part.oldest_wait_s for part in parts),
            sum(part.dead for part in parts),
            " ".join(part.filling for part in parts if part.filling),
            {name: report for part in parts for name, report in part.workers.items()},
            {name: report for part in parts for name, report in part.gateways.items()},
            parts=parts,
        )

    @property
    def in_use(self) -> bool:
        """Whether the model has workers, requests or dead letters, or a queue in a gateway."""
        return any((self.workers, self.gateways, self.waiting, self.running, self.open_requests, self.dead))

    @property
    def ready_workers(self) -> list[str]:
        return [worker_id for worker_id, report in self.workers.items() if report.get("state") == "ready"]


async def announce(connection: MultiplexedConnection, info: ModelInfo) -> None:
    await connection.execute("HSET", MODELS, info.id, model_info.encode(info))


async def reserve_name(
    connection: MultiplexedConnection, info: ModelInfo, *, ttl_ms: int, replace: bool = False
) -> ModelInfo | None:
    """Reserve a model's name for `ttl_ms`, or renew the reservation. Workers of one fingerprint share it.

    Returns None, or the other model that holds the name. `replace` takes the name from that one.
    """
    key, value = Keys(info.id).served, model_info.encode(info)
    if not replace:
        current = await connection.execute("SET", key, value, "NX", "GET", "PX", ttl_ms)
        if current is None:
            return None
        try:
            other = model_info.decode(current)
        except ValueError:  # written by another program
            other = info
        if other.fingerprint != info.fingerprint:
            return other
    await connection.execute("SET", key, value, "PX", ttl_ms)
    return None


_decode = functools.lru_cache(4096)(model_info.decode)  # gateways read the same announcements twice a second


async def models(connection: MultiplexedConnection) -> dict[str, ModelInfo]:
    """Return every announced model by its ID, without invalid announcements."""
    announced = to_dict(await connection.execute("HGETALL", MODELS))
    found = {}
    for name, text in announced.items():
        try:
            found[check_model_id(name.decode())] = _decode(text)
        except (ValueError, UnknownModel):  # msgspec's errors and UnicodeDecodeError are ValueErrors
            continue
    return found


async def report_gateway(
    connection: MultiplexedConnection, keys: Keys, gateway_id: str, report: Mapping[str, Argument]
) -> None:
    key = keys.gateway(gateway_id)
    await connection.call(
        [
            ("HSET", key, *chain.from_iterable(report.items())),
            ("PEXPIRE", key, GATEWAY_REPORT_TTL_MS),
            ("SADD", keys.gateways, gateway_id),
            ("PEXPIRE", keys.gateways, GATEWAY_REPORT_TTL_MS),
        ]
    )


async def remove_gateway(connection: MultiplexedConnection, keys: Keys, gateway_id: str) -> None:
    await connection.call([("DEL", keys.gateway(gateway_id)), ("SREM", keys.gateways, gateway_id)])


async def snapshot(connection: MultiplexedConnection, tag: str) -> Snapshot:
    """Read the state of one partition of a model in two round trips."""
    keys = Keys(tag)
    groups, *replies = await connection.call(
        [
            ("XINFO", "GROUPS", keys.requests),  # fails while there is no stream
            ("TIME",),
            ("XLEN", keys.requests),
            ("HLEN", keys.inflight),
            ("HMGET", keys.inflight, "#bytes", "#extra_rows", "#about"),
            ("XLEN", keys.dead),
            ("GET", keys.fill_lock),
            ("ZRANGE", keys.leases, 0, -1, "WITHSCORES"),
            ("SMEMBERS", keys.gateways),
        ],
        return_errors=True,
    )
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    time, length, fields, sums, dead, fill_lock, leases, gateway_ids = replies
    now_ms = to_ms(time)
    running, last_id = read_group(groups)
    workers, gateways, head = await _reports(connection, keys, _alive(leases, now_ms), gateway_ids, last_id)
    return Snapshot(
        keys.model,
        now_ms,
        max(0, length - running),
        running,
        fields - sum(value is not None for value in sums),
        int(sums[0] or 0),
        length + int(sums[1] or 0),
        parse_entry(head[0]).age_s(now_ms) if head else 0.0,
        dead,
        fill_lock.decode() if fill_lock else "",
        workers,
        gateways,
        keys.partition,
    )


async def load(connection: MultiplexedConnection, keys: Keys) -> tuple[list[str], int]:
    """Return the IDs of the workers with a lease in one partition, and the number of waiting entries."""
    groups, *replies = await connection.call(
        [
            ("XINFO", "GROUPS", keys.requests),  # fails while there is no stream
            ("TIME",),
            ("XLEN", keys.requests),
            ("ZRANGE", keys.leases, 0, -1, "WITHSCORES"),
        ],
        return_errors=True,
    )
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    time, length, leases = replies
    running, _ = read_group(groups)
    return _alive(leases, to_ms(time)), max(0, length - running)


def _alive(leases: Sequence[bytes], now_ms: int) -> list[str]:
    return [name.decode(errors="replace") for name, end in to_dict(leases).items() if float(end) > now_ms]


async def _reports(connection: MultiplexedConnection, keys: Keys, worker_ids, gateway_ids, last_id: str):
    worker_names = sorted(worker_ids)
    gateway_names = sorted(name.decode(errors="replace") for name in gateway_ids)
    report_keys = [*map(keys.worker, worker_names), *map(keys.gateway, gateway_names)]
    head, *replies = await connection.call(
        [
            ("XRANGE", keys.requests, f"({last_id}", "+", "COUNT", 1),
            *(("HGETALL", key) for key in report_keys),
        ],
        return_errors=True,
    )
    if isinstance(head, Exception):
        raise head
    reports = [
        _text(to_dict(reply)) if isinstance(reply, list) else {} for reply in replies
    ]  # an error: a key of another type
    workers = {n: r for n, r in zip(worker_names, reports, strict=False) if r}
    gateways = {n: r for n, r in zip(gateway_names, reports[len(worker_names) :], strict=True) if r}
    return workers, gateways, head


def read_group(groups: Any) -> tuple[int, str]:
    """Return the number of pending entries and the last-delivered ID of the workers' group.

    `groups` is the reply of XINFO GROUPS, which may be an error.
    """
    for group in map(to_dict, groups if isinstance(groups, list) else ()):
        if group[b"name"] == GROUP.encode():
            return group[b"pending"], group[b"last-delivered-id"].decode()
    return 0, "0-0"


def to_ms(time: Sequence[bytes]) -> int:
    """Convert the reply of TIME to milliseconds."""
    seconds, micros = map(int, time)
    return seconds * 1000 + micros // 1000


def _text(report: dict[bytes, bytes]) -> dict[str, Any]:
    readable = {k.decode(errors="replace"): v for k, v in report.items()}
    return {k: v if k == counts.FIELD else v.decode(errors="replace") for k, v in readable.items()}


def number(text: Any) -> float:
    """Parse a number of a report. Returns 0 for anything else, so that an invalid report does no harm."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return 0.0
    return value if 0 <= value < math.inf else 0.0
