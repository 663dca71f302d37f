"""redis-py's commands, sent over a link of ours."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.client import EMPTY_RESPONSE, NEVER_DECODE

from smartbatch.shared.broker.connection.multiplexed import HandingOver, MultiplexedConnection

_ITS_OWN = (EMPTY_RESPONSE, NEVER_DECODE, "keys")  # options that redis-py's own way takes, and no callback


class LinkedRedis(Redis):
    """One connection, shared by all tasks that call: a blocking command holds up those behind it.

    Only transactions go redis-py's own way, with connections of its pool.
    """

    link: MultiplexedConnection

    def link_up(self, *, exclusive: bool) -> None:
        """Called once, before any command. `exclusive`: for blocking reads, by one task."""
        pool = self.connection_pool
        linked: Any = type("Connection", (HandingOver, pool.connection_class), {})
        options = pool.connection_kwargs
        self.link = MultiplexedConnection(lambda: linked(**options), options["socket_timeout"], exclusive=exclusive)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        (answer,) = await self.link.call([args])
        return await _read(self, args[0], answer, options)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        if transaction:
            return super().pipeline(transaction, shard_hint)
        return _LinkedPipeline(self)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        self.link.close()
        await super().aclose(close_connection_pool)


class _LinkedPipeline(Pipeline):
    """Commands that leave in one piece, without a transaction."""

    def __init__(self, client: LinkedRedis) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, False, None)
        self._link = client.link

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        stack, self.command_stack = self.command_stack, []
        if not stack:
            return []
        answers = await self._link.call([args for args, _ in stack])
        read = []
        for (args, options), answer in zip(stack, answers, strict=True):
            try:
                read.append(await _read(self, args[0], answer, options))
            except Exception as error:
                if raise_on_error:
                    raise
                read.append(error)
        return read


async def _read(client: Redis, name: Any, answer: Any, options: Mapping[str, Any]) -> Any:
    """What redis-py makes of a command's answer, and of the options that its own way would take."""
    if isinstance(answer, Exception):
        if EMPTY_RESPONSE in options:
            return options[EMPTY_RESPONSE]
        raise answer
    callback = client.response_callbacks.get(name)
    if callback is None:
        return answer
    read = callback(answer, **{option: value for option, value in options.items() if option not in _ITS_OWN})
    return await read if inspect.isawaitable(read) else read
