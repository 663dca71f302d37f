"""The Lua scripts, sent by hash (EVALSHA) and in full (EVAL) only when Redis doesn't know the hash.

NOSCRIPT means "not executed", so sending in full is always safe after it, and after nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from smartbatch.shared.broker.connection.multiplexed import Argument, Command, MultiplexedConnection, UnknownScript


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

    async def call(
        self,
        connection: MultiplexedConnection,
        keys: Sequence[str],
        args: Sequence[Argument],
        *,
        before: Sequence[Command] = (),
    ) -> Any:
        """Run it and return its answer. The commands `before` it leave with it in one piece; their errors are raised
        too, and before its own."""
        call = ("EVALSHA", self.sha, len(keys), *keys, *args)
        try:
            return (await connection.call([*before, call]))[-1]
        except UnknownScript:
            return await connection.execute("EVAL", self.source, *call[2:])


ADMIT = Script("admit")
CANCEL = Script("cancel")
CLAIM = Script("claim")
RELEASE = Script("release")
FINISH = Script("finish")
FINISH_PLAIN = Script("finish_plain")
HEARTBEAT = Script("heartbeat")
LEAVE = Script("leave")
USAGE = Script("usage")
