"""The usage of API keys over all gateways: token buckets of the rate limits, and requests per day."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from smartbatch.shared import keys
from smartbatch.shared.broker.connection.multiplexed import Argument, MultiplexedConnection
from smartbatch.shared.broker.connection.script import USAGE

BUCKETS_TTL_MS = 24 * 3600 * 1000
COUNTS_TTL_MS = 48 * 3600 * 1000
SEEN_TTL_MS = 3600 * 1000


class KeyUsage(msgspec.Struct):
    """One key's limits, and its usage at one gateway process since the previous call."""

    name: str
    rate: float
    burst: float
    spent: int  # tokens
    counted: int  # requests for the quota


class Usage:
    """The usage that one gateway process reports and reads. Only its usage sync calls it."""

    def __init__(self, connection: MultiplexedConnection, gateway_id: str) -> None:
        self._connection = connection
        self._gateway_id = gateway_id

    async def exchange(
        self, number: int, day: str, since_ms: int, usage: Sequence[KeyUsage]
    ) -> list[tuple[float, int]]:
        """Report the usage of the last `since_ms`. Returns (tokens left, requests today) of each key at all gateways.

        `number` increases with every report. A report that is sent again under its number is counted once.
        """
        args: list[Argument] = [number, since_ms, SEEN_TTL_MS, BUCKETS_TTL_MS, COUNTS_TTL_MS]
        for key in usage:
            args += (key.name, key.rate, key.burst, key.spent, key.counted)
        script_keys = [keys.BUCKETS, keys.counts(day), keys.seen(self._gateway_id)]
        result = await USAGE.call(self._connection, script_keys, args)
        return [(float(tokens), int(counted)) for tokens, counted in zip(result[::2], result[1::2], strict=True)]
