"""Limits the memory for request bodies that are being received."""

from __future__ import annotations

from smartbatch.shared.errors import ReceivingFull


class BodyMemoryBudget:
    """One per process. A body that arrives in one piece, as most do, isn't counted."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.bytes = 0

    def reserve(self, count: int) -> None:
        """Reserve memory for received bytes. Call `release` when the body is complete or abandoned. A Content-Length
        reserves nothing. Raises ReceivingFull."""
        if self.bytes + count > self._max_bytes:
            raise ReceivingFull("the request bodies being received exceed MAX_RECEIVING_BYTES")
        self.bytes += count

    def release(self, count: int) -> None:
        self.bytes -= count
