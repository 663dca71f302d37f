"""The Lua scripts, sent by hash (EVALSHA) and in full (EVAL) only when Redis doesn't know the hash.

NOSCRIPT means "not executed", so sending in full is always safe after it, and after nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import redis.exceptions

from smartbatch.shared.broker.connection.client import Client
from smartbatch.shared.broker.connection.multiplexed import Command

Argument = str | bytes | int | float


def _source(name: str) -> str:
    folder = resources.files("smartbatch.shared.broker") / "scripts"
    text = (folder / name).read_text()
    lines = []
    for line in text.splitlines():
        included = line.removeprefix("--#include ")
        lines.append(line if included == line else (folder / f"{included}.lua").read_text())
    return "\n".join(lines)


class Script:
    """One script. Stateless after loading; any task may call it."""

    def __init__(self, name: str) -> None:
        self.source = _source(f"{name}.lua")
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    async def call(self, client: Client, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        return await self.call_after((), client, keys, args)

    async def call_after(
        self, before: Sequence[Command], client: Client, keys: Sequence[str], args: Sequence[Argument]
    ) -> Any:
        """Send commands with this script behind them in one piece; return the script's answer.

        An error of an earlier command is raised too, and wins. (Straight over the link: redis-py's own way to it takes
        as long as the rest of a call, and makes nothing of a script's answer.)
        """
        call = ("EVALSHA", self.sha, len(keys), *keys, *args)
        *others, answer = await client.link.call([*before, call])
        for other in others:
            if isinstance(other, Exception):
                raise other
        if isinstance(answer, redis.exceptions.NoScriptError):
            (answer,) = await client.link.call([("EVAL", self.source, *call[2:])])
        if isinstance(answer, Exception):
            raise answer
        return answer


ADMIT = Script("admit")
CANCEL = Script("cancel")
CLAIM = Script("claim")
RELEASE = Script("release")
FINISH = Script("finish")
FINISH_PLAIN = Script("finish_plain")
BEAT = Script("beat")
LEAVE = Script("leave")
USAGE = Script("usage")
