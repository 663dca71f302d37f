"""What API keys have spent, over all gateways: their token buckets, and their counts of the day."""

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
    """One key's limits, and what a gateway process let through under it since its last call."""

    name: str
    rate: float
    burst: float
    spent: int
    counted: int


class Usage:
    """One gateway process's view. Only the usage sync calls it."""

    def __init__(self, connection: MultiplexedConnection, gateway_id: str) -> None:
        self._connection = connection
        self._gateway_id = gateway_id

    async def exchange(
        self, number: int, day: str, since_ms: int, lines: Sequence[KeyUsage]
    ) -> list[tuple[float, int]]:
        """Tell what was spent in the last `since_ms`. Returns (tokens left, counted that day) of each, of all gateways.

        Numbers rise. The call may be repeated under its number: it is counted once.
        """
        args: list[Argument] = [number, since_ms, SEEN_TTL_MS, BUCKETS_TTL_MS, COUNTS_TTL_MS]
        for line in lines:
            args += (line.name, line.rate, line.burst, line.spent, line.counted)
        script_keys = [keys.BUCKETS, keys.counts(day), keys.seen(self._gateway_id)]
        answers = await USAGE.call(self._connection, script_keys, args)
        return [(float(tokens), int(counted)) for tokens, counted in zip(answers[::2], answers[1::2], strict=True)]
