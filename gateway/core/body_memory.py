"""Bounds the memory for request bodies that are being received."""

from __future__ import annotations

from smartbatch.shared.errors import ReceivingFull


class BodyMemoryBudget:
    """One per process. A body that comes in one piece, as most do, isn't counted."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.bytes = 0

    def take(self, count: int) -> None:
        """Reserve memory for bytes that came; call `give` once the body is complete or given up. Raises ReceivingFull.

        A Content-Length reserves nothing.
        """
        if self.bytes + count > self._max_bytes:
            raise ReceivingFull("the request bodies being received reach MAX_RECEIVING_BYTES")
        self.bytes += count

    def give(self, count: int) -> None:
        self.bytes -= count
