"""Pure timeout rules of a connection."""

from __future__ import annotations

from typing import Literal

# From the first byte of a head to its last; also how long a new connection may stay silent, and how long the rest of a
# refused body may take.
HEAD_TIMEOUT_S = 10.0
# Longer than the minute that proxies keep idle connections: a proxy that sends just as the connection is closed here
# answers its own client with a 502.
KEEP_ALIVE_S = 75.0
# A client that reads nothing of its response for so long is disconnected.
WRITE_TIMEOUT_S = 10.0

# What a connection awaits of its client: the first head; a further one, of which some bytes have come ("head") or none
# ("request"); the rest of an answered request. "nothing": it is the application's turn.
Awaited = Literal["head", "request", "rest", "nothing"]


class ConnectionTimeouts:
    """One per connection; checked once a second. `since` is when the connection began to await what it awaits now."""

    def __init__(self, now: float) -> None:
        self._awaited: Awaited = "head"
        self.since = now
        self._unsent = 0
        self._unsent_since = now

    def expired(self, awaited: Awaited, unsent: int, now: float) -> bool:
        """Return whether the connection has awaited that for too long, or its unsent bytes haven't become fewer."""
        if unsent and unsent == self._unsent:
            return now - self._unsent_since > WRITE_TIMEOUT_S
        self._unsent, self._unsent_since = unsent, now
        if awaited != self._awaited:
            self._awaited, self.since = awaited, now
        if awaited == "nothing":
            return False
        return now - self.since > (KEEP_ALIVE_S if awaited == "request" else HEAD_TIMEOUT_S)
