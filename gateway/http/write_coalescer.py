"""Answers that are made together leave together, once all of them are made.

A batch's replies come in one piece. Were each answer sent as soon as it is made, the kernel's part of sending and ours
of making would take turns in pushing each other out of the processor's nearest caches.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Sender(Protocol):
    def flush(self) -> None:
        """Send what there is to be sent. Raises nothing."""


class WriteCoalescer:
    """One per process; for the event loop's thread."""

    def __init__(self) -> None:
        self._senders: list[Sender] = []

    def put(self, sender: Sender) -> None:
        """Have it flushed in the event loop's next turn."""
        if not self._senders:
            asyncio.get_running_loop().call_soon(self._flush)
        self._senders.append(sender)

    def _flush(self) -> None:
        senders, self._senders = self._senders, []
        for sender in senders:
            sender.flush()
