"""How long a connection is waited for. Pure: what it owes, and now in; whether it has been too long, out."""

from __future__ import annotations

from typing import Literal

# From the first byte of a head to its last; also how long a new connection may stay silent, and how long the rest of a
# body that nobody wants may take.
HEAD_TIMEOUT_S = 10.0
# Longer than the minute that proxies keep idle connections: a proxy that sends on one just as it is closed here
# answers its own client with a 502.
KEEP_ALIVE_S = 75.0
# A client that takes nothing of its answer for so long is given up.
WRITE_TIMEOUT_S = 10.0

# A first head; a further one, of which something has come or nothing yet; the rest of an answered request. "nothing":
# the next move is the application's.
Awaited = Literal["head", "request", "rest", "nothing"]


class ConnectionTimeouts:
    """One per connection; asked once a second."""

    def __init__(self, now: float) -> None:
        self._awaited: Awaited = "head"
        self._since = now
        self._unsent = 0
        self._unsent_since = now

    def renew(self, now: float) -> None:
        """A request was answered."""
        self._since = now

    def over(self, awaited: Awaited, unsent: int, now: float) -> bool:
        """Whether it has awaited that for too long, or what is unsent hasn't become less."""
        if unsent and unsent == self._unsent:
            return now - self._unsent_since > WRITE_TIMEOUT_S
        self._unsent, self._unsent_since = unsent, now
        if awaited != self._awaited:
            self._awaited, self._since = awaited, now
        if awaited == "nothing":
            return False
        return now - self._since > (KEEP_ALIVE_S if awaited == "request" else HEAD_TIMEOUT_S)
