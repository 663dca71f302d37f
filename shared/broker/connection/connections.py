"""Connections for callers that use keys of several models."""

from __future__ import annotations

from smartbatch.shared.broker.connection.multiplexed import MultiplexedConnection
from smartbatch.shared.keys import hash_tag
from smartbatch.shared.redis_url import parse_url


class Connections:
    """One connection per hash tag on a cluster, and one for all keys elsewhere. Each is made when first needed."""

    def __init__(self, url: str, *, block_s: float = 0.0) -> None:
        self._url = url
        self._block_s = block_s
        self._cluster = parse_url(url).kind == "cluster"
        self._open: dict[str, MultiplexedConnection] = {}

    def of(self, key: str) -> MultiplexedConnection:
        """Return the connection for all keys with the hash tag of `key`."""
        tag = hash_tag(key) if self._cluster else ""
        if tag not in self._open:
            self._open[tag] = MultiplexedConnection(self._url, key, block_s=self._block_s)
        return self._open[tag]

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()
