"""Checks at startup that the broker can be reached and is new enough."""

from __future__ import annotations

from contextlib import closing

from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection
from smartbatch.shared.errors import BrokerUnavailable
from smartbatch.shared.settings import mask_url


async def check(url: str) -> str:
    """Connect once and return the server's name and version, for example `Redis 7.0.15`. Raises BrokerUnavailable."""
    with closing(MultiplexedConnection(url)) as connection:
        text: bytes = await connection.execute("INFO", "server")
    info = dict(line.split(":", 1) for line in text.decode(errors="replace").splitlines() if ":" in line)
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info["redis_version"]
    if int(info["redis_version"].split(".")[0]) < 7:
        raise BrokerUnavailable(f"{mask_url(url)} is {name} {version}; 7.0 or newer is required")
    return f"{name} {version}"
