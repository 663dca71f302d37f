"""Cancelling asyncio tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Collection


async def end(tasks: Collection[asyncio.Task]) -> None:
    """Cancel tasks until they have ended; their exceptions are discarded.

    Once isn't enough: redis-py sends through asyncio.wait_for, which in Python 3.11 swallows a cancellation that
    comes just when the send is done.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
    await asyncio.gather(*tasks, return_exceptions=True)
