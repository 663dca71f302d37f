"""The Lua scripts, sent by hash (EVALSHA) and in full (EVAL) only when Redis doesn't know the hash.

NOSCRIPT means "not executed", so sending in full is always safe after it, and after nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import redis.exceptions

from shared.broker.connection import Client

Argument = str | bytes | int | float


def _source(name: str) -> str:
    folder = resources.files("shared.broker") / "scripts"
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
        try:
            return await client.evalsha(self.sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            return await self._call_in_full(client, keys, args)

    async def call_in(self, pipeline: Any, client: Client, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Send the pipeline's commands with this script as the last one; return the script's answer.

        An error of an earlier command is raised too, and wins.
        """
        pipeline.evalsha(self.sha, len(keys), *keys, *args)
        *others, answer = await pipeline.execute(raise_on_error=False)
        for other in others:
            if isinstance(other, Exception):
                raise other
        if isinstance(answer, redis.exceptions.NoScriptError):
            return await self._call_in_full(client, keys, args)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _call_in_full(self, client: Client, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        return await client.eval(self.source, len(keys), *keys, *args)


ADMIT = Script("admit")
CANCEL = Script("cancel")
CLAIM = Script("claim")
RELEASE = Script("release")
FINISH = Script("finish")
BEAT = Script("beat")
LEAVE = Script("leave")
USAGE = Script("usage")
