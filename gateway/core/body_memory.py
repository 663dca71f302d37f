"""How many bytes of unfinished bodies a gateway process holds: bounded, whatever clients do."""

from __future__ import annotations

from smartbatch.shared.errors import ReceivingFull


class BodyMemoryBudget:
    """One per process. A body that came whole at once, as most do, is never counted."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.bytes = 0

    def take(self, count: int) -> None:
        """Make room for bytes that came; `give` them back when the body is whole or given up. Raises ReceivingFull.

        What came is counted, not what a Content-Length promises: nobody takes room by a promise.
        """
        if self.bytes + count > self._max_bytes:
            raise ReceivingFull("the request bodies being received reach MAX_RECEIVING_BYTES")
        self.bytes += count

    def give(self, count: int) -> None:
        self.bytes -= count
