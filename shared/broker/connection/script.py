"""Runs the Lua scripts: by hash (EVALSHA), or by source (EVAL) if Redis does not know the hash.

NOSCRIPT is the only error after which a script may be sent again, because it means that nothing was executed.
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
        """Run the script and return its result. The commands `before` are sent ahead of it in the same pipeline.

        Raises as `MultiplexedConnection.call` does; errors of `before` come first.
        """
        call = ("EVALSHA", self.sha, len(keys), *keys, *args)
        try:
            return (await connection.call([*before, call]))[-1]
        except UnknownScript:
            return await connection.execute("EVAL", self.source, *call[2:])


ADMIT = Script("admit")
CANCEL = Script("cancel")
CLAIM = Script("claim")
RELEASE = Script("release")
REMOVE = Script("remove")
FINISH = Script("finish")
FINISH_PLAIN = Script("finish_plain")
HEARTBEAT = Script("heartbeat")
LEAVE = Script("leave")
USAGE = Script("usage")
ROUTE = Script("route")
