"""Versions of a model whose gateways and workers report what a test says, on a real broker."""

from __future__ import annotations

from typing import Any

from smartbatch.gateway.core.latency_window import Summary, pack
from smartbatch.shared import model_info
from smartbatch.shared.keys import MODELS, Keys, model_id
from smartbatch.shared.model_info import InputSpec, ModelInfo

FAR_MS = 1 << 50  # the end of a lease


def counted(ok: int = 0, errors: int = 0, bucket: int = 32) -> Summary:
    """So many requests; bucket 32 is that of 16 ms."""
    outcomes = {name: count for name, count in (("ok", ok), ("error", errors)) if count}
    return Summary(outcomes, {"model_failed": errors} if errors else {}, {bucket: ok} if ok else {})


class FakeVersion:
    """One version of the model m."""

    def __init__(self, redis: Any, version: int, *, workers: int = 1) -> None:
        self._redis = redis
        self._version = version
        self._keys = Keys(model_id("m", version))
        self._total = Summary()
        info = ModelInfo("m", "net", InputSpec(("raw",)), 8, version=version)
        redis.hset(MODELS, info.id, model_info.encode(info))
        self.work(workers)

    def work(self, workers: int) -> None:
        """Have this many ready workers."""
        self._redis.delete(self._keys.leases)
        for number in range(workers):
            self._redis.zadd(self._keys.leases, {f"w{number}": FAR_MS})
            self._redis.hset(self._keys.worker(f"w{number}"), "state", "ready")

    def report(self, total: Summary, *, minute: Summary | None = None, gateway: str = "g") -> None:
        """Report as a gateway process what it has counted since it started, and in the last minute."""
        self._redis.hset(self._keys.gateway(gateway), mapping={"total": pack(total), "minute": pack(minute or total)})
        self._redis.sadd(self._keys.gateways, gateway)

    def gateway_ends(self, gateway: str = "g") -> None:
        self._redis.delete(self._keys.gateway(gateway))
        self._redis.srem(self._keys.gateways, gateway)
